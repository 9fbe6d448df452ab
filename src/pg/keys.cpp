#include "pg/keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "core/secret.h"
#include "pg/boundary.h"
#include "pg/settings.h"

namespace token_refresh {

namespace {

constexpr size_t kMaxKeyText = 64 * 1024;
constexpr const char* kHowToMakeAKey =
    "Make one with: (umask 077; echo \"main $(openssl rand -base64 32)\" > FILE), owned by the server's user, "
    "and set token_refresh.key_file to its absolute path.";

// Pointer, not object: nothing is constructed when the library is loaded.
KeyRing* ring = nullptr;
bool stale = true;

Error Missing(std::string message, std::string hint = kHowToMakeAKey) {
  return Error{ErrorCode::kKeyMissing, std::move(message), std::move(hint)};
}

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

// As for PostgreSQL's own TLS key: the server's user alone, or root and a group.
Status CheckMode(const struct stat& info, const std::string& path) {
  if (!S_ISREG(info.st_mode)) return Missing("key file \"" + path + "\" is not a regular file");
  if (info.st_uid != geteuid() && info.st_uid != 0)
    return Missing("key file \"" + path + "\" belongs to somebody else than the server's user or root");
  mode_t forbidden = info.st_uid == 0 && geteuid() != 0 ? (S_IWGRP | S_IXGRP | S_IRWXO) : (S_IRWXG | S_IRWXO);
  if ((info.st_mode & forbidden) != 0)
    return Missing("key file \"" + path + "\" can be read or written by others", "Set its mode to 0600.");
  return Ok();
}

Result<Secret> ReadAll(int fd, const std::string& what) {
  Secret text;
  char buffer[4096];
  for (;;) {
    ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Missing("could not read " + what + ": " + strerror(errno));
    if (n == 0) break;
    text.Append({buffer, static_cast<size_t>(n)});
    if (text.size() > kMaxKeyText) return Missing(what + " is longer than a key ring can be");
  }
  explicit_bzero(buffer, sizeof(buffer));
  return text;
}

Result<Secret> ReadKeyFile(const std::string& path) {
  Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return Missing("could not open key file \"" + path + "\": " + strerror(errno));
  struct stat info;
  if (fstat(file.fd, &info) != 0) return Missing("could not examine key file \"" + path + "\": " + strerror(errno));
  Status safe = CheckMode(info, path);
  if (!safe.ok()) return safe.error();
  return ReadAll(file.fd, "key file \"" + path + "\"");
}

Result<Secret> RunKeyCommand(const char* command) {
  FILE* pipe = popen(command, "re");
  if (pipe == nullptr) return Missing("could not run token_refresh.key_command", "");
  Result<Secret> text = ReadAll(fileno(pipe), "the output of token_refresh.key_command");
  int status = pclose(pipe);
  if (!text.ok()) return text;
  if (status != 0)
    return Missing("token_refresh.key_command failed", "Run it as the server's user; it must print the key ring.");
  return text;
}

Result<KeyRing> ReadKeyRing() {
  const char* path = Settings::key_file;
  const char* command = Settings::key_command;
  bool has_path = path != nullptr && path[0] != '\0';
  bool has_command = command != nullptr && command[0] != '\0';
  if (!has_path && !has_command) return Missing("no key: token_refresh.key_file is not set");

  Result<Secret> text = has_path ? ReadKeyFile(path) : RunKeyCommand(command);
  if (!text.ok()) return text.error();
  Result<KeyRing> parsed = KeyRing::Parse(text->view());
  if (!parsed.ok()) {
    Error error = parsed.error();
    if (error.hint.empty()) error.hint = kHowToMakeAKey;
    error.code = ErrorCode::kKeyMissing;
    return error;
  }
  return parsed;
}

}  // namespace

Result<const KeyRing*> LoadKeyRing() {
  if (ring != nullptr && !stale) return static_cast<const KeyRing*>(ring);
  Result<KeyRing> fresh = ReadKeyRing();
  if (fresh.ok()) {
    delete ring;
    ring = new KeyRing(std::move(*fresh));
  } else if (ring == nullptr) {
    return fresh.error();
  } else {
    // A file that is being replaced must not cost the tokens that are to be sealed meanwhile.
    ReportToLog(LOG, ("keeps the keys it has: " + fresh.error().message).c_str());
  }
  stale = false;
  return static_cast<const KeyRing*>(ring);
}

void ForgetKeyRing() { stale = true; }

}  // namespace token_refresh
