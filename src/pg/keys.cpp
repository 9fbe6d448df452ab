#include "pg/keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include "core/secret.h"
#include "pg/boundary.h"
#include "pg/key_command.h"
#include "pg/settings.h"

namespace token_refresh {

namespace {

using std::chrono::steady_clock;

constexpr const char* kHowToMakeAKey =
    "Make one with: (umask 077; echo \"main $(openssl rand -base64 32)\" > FILE), owned by the server's user, "
    "and set token_refresh.key_file to its absolute path.";
// A command that failed is left alone for so long: it may have kept us waiting.
constexpr auto kCommandPause = std::chrono::seconds(kKeyCommandSeconds);

// A failure of key_command that holds until then.
struct CommandFailure {
  Error error;
  steady_clock::time_point until;
};

// Pointers, not objects: nothing is constructed when the library is loaded.
KeyRing* ring = nullptr;
CommandFailure* command_failure = nullptr;
bool stale = true;
bool file_named = false;

Error Missing(std::string message, std::string hint = kHowToMakeAKey) {
  return Error{ErrorCode::kKeyMissing, std::move(message), std::move(hint)};
}

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

// Where the file is stands in the server's log only, once: an error also reaches those who may not see the
// setting.
Error Unusable(const char* path, const std::string& problem, std::string hint = kHowToMakeAKey) {
  if (!file_named)
    ReportToLog(LOG_SERVER_ONLY, (std::string("token_refresh.key_file is \"") + path + "\"").c_str());
  file_named = true;
  return Missing(problem, std::move(hint));
}

// As for PostgreSQL's own TLS key: the server's user alone, or root and a group.
Status CheckMode(const struct stat& info, const char* path) {
  if (!S_ISREG(info.st_mode)) return Unusable(path, "the key file is not a regular file");
  if (info.st_uid != geteuid() && info.st_uid != 0)
    return Unusable(path, "the key file belongs to somebody else than the server's user or root");
  mode_t forbidden = info.st_uid == 0 && geteuid() != 0 ? (S_IWGRP | S_IXGRP | S_IRWXO) : (S_IRWXG | S_IRWXO);
  if ((info.st_mode & forbidden) != 0)
    return Unusable(path, "the key file can be read or written by others", "Set its mode to 0600.");
  return Ok();
}

Result<Secret> ReadKeyFile(const char* path) {
  Descriptor file{open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return Unusable(path, std::string("could not open the key file: ") + strerror(errno));
  struct stat info;
  if (fstat(file.fd, &info) != 0)
    return Unusable(path, std::string("could not examine the key file: ") + strerror(errno));
  Status safe = CheckMode(info, path);
  if (!safe.ok()) return safe.error();
  Secret text;
  char buffer[4096];
  ssize_t n;
  while ((n = read(file.fd, buffer, sizeof(buffer))) > 0 && text.size() <= kMaxKeyText)
    text.Append({buffer, static_cast<size_t>(n)});
  const int error = errno;
  explicit_bzero(buffer, sizeof(buffer));
  if (n < 0) return Unusable(path, std::string("could not read the key file: ") + strerror(error));
  if (text.size() > kMaxKeyText) return Unusable(path, "the key file is longer than a key ring can be");
  return text;
}

void ForgetCommandFailure() {
  delete command_failure;
  command_failure = nullptr;
}

Result<Secret> ReadKeyCommand(const char* command) {
  if (command_failure != nullptr && steady_clock::now() < command_failure->until) return command_failure->error;
  ForgetCommandFailure();
  Result<Secret> text = RunKeyCommand(command);
  // An interrupt says nothing about the command.
  if (!text.ok() && text.error().code == ErrorCode::kKeyMissing)
    command_failure = new CommandFailure{text.error(), steady_clock::now() + kCommandPause};
  return text;
}

Result<KeyRing> ReadKeyRing() {
  const char* path = Settings::key_file;
  const char* command = Settings::key_command;
  bool has_path = path != nullptr && path[0] != '\0';
  bool has_command = command != nullptr && command[0] != '\0';
  if (!has_path && !has_command) return Missing("no key: token_refresh.key_file is not set");

  Result<Secret> text = has_path ? ReadKeyFile(path) : ReadKeyCommand(command);
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
  } else if (fresh.error().code != ErrorCode::kUnavailable) {
    // A file that is being replaced must not cost the tokens that are to be sealed meanwhile.
    ReportToLog(LOG, ("keeps the keys it has: " + fresh.error().message).c_str());
  }
  stale = !fresh.ok() && fresh.error().code == ErrorCode::kUnavailable;  // interrupted: not read yet
  return static_cast<const KeyRing*>(ring);
}

void ForgetKeyRing() {
  stale = true;
  file_named = false;
  ForgetCommandFailure();
}

}  // namespace token_refresh
