#include "pg/keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/secret.h"
#include "pg/boundary.h"
#include "pg/key_command.h"
#include "pg/postgres_api.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"

namespace token_refresh {

namespace {

using std::chrono::steady_clock;

constexpr const char* kHowToMakeAKey =
    "Make one with: (umask 077; echo \"main $(openssl rand -base64 32)\" > FILE), owned by the server's user, "
    "and set token_refresh.key_file to its absolute path.";
constexpr const char* kHowToLetUsRead =
    "The server's user must be able to read it, and to search the directories above it.";
// A command that failed is left alone for so long: it may have kept us waiting.
constexpr auto kCommandPause = std::chrono::seconds(kKeyCommandSeconds);
// After a failure, and when a key is missing again, a process that has a ring waits so long before it reads
// its source anew.
constexpr auto kFileInterval = std::chrono::seconds(1);
constexpr auto kCommandInterval = std::chrono::seconds(60);

// A failure of key_command that holds until then.
struct CommandFailure {
  Error error;
  steady_clock::time_point until;
};

// Pointers, not objects: nothing is constructed when the library is loaded.
// The last ring is the current one. Those before it have been replaced since LoadKeyRing gave them out.
std::vector<std::unique_ptr<KeyRing>>* rings = nullptr;
CommandFailure* command_failure = nullptr;
bool stale = true;
bool file_named = false;
bool failure_told = false;
steady_clock::time_point retry_at;  // after a failure
steady_clock::time_point search_at;  // for a key that the ring does not hold
// A reload that changes neither setting may still be for the sake of the file; the assign hooks hear nothing of
// it when the setting is on the server's command line.
TimestampTz seen_reload = 0;

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
  if (file.fd < 0) {
    const int error = errno;
    return Unusable(path, std::string("could not open the key file: ") + strerror(error),
                    error == EACCES ? kHowToLetUsRead : kHowToMakeAKey);
  }
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

const KeyRing* CurrentRing() { return rings == nullptr || rings->empty() ? nullptr : rings->back().get(); }

steady_clock::duration Interval() {
  const bool has_file = Settings::key_file != nullptr && Settings::key_file[0] != '\0';
  return has_file ? kFileInterval : kCommandInterval;
}

const KeyRing* FindNewerRing(const KeyRing& ring);

bool SameKeys(const KeyRing& a, const KeyRing& b) {
  return std::ranges::equal(a.keys(), b.keys(), {}, &SealingKey::id, &SealingKey::id);
}

void TakeRing(KeyRing fresh) {
  if (rings == nullptr) rings = new std::vector<std::unique_ptr<KeyRing>>;
  // The client secret of a provider that could not be used may open now.
  if (CurrentRing() != nullptr && !SameKeys(*CurrentRing(), fresh)) ForgetProviders();
  rings->push_back(std::make_unique<KeyRing>(std::move(fresh)));
  rings->back()->set_find_newer(FindNewerRing);
  failure_told = false;
}

// On failure the ring stays as it is: a file that is being replaced must not cost the tokens that are to be sealed
// meanwhile.
Status ReadAnew() {
  Result<KeyRing> fresh = ReadKeyRing();
  stale = !fresh.ok();
  // What was interrupted has not been tried.
  const bool interrupted = !fresh.ok() && fresh.error().code == ErrorCode::kUnavailable;
  retry_at = steady_clock::now();
  if (!interrupted) retry_at += Interval();
  if (fresh.ok()) {
    TakeRing(std::move(*fresh));
    return Ok();
  }
  if (CurrentRing() != nullptr && !interrupted && !failure_told) {
    ReportToLog(LOG, ("keeps the keys it has: " + fresh.error().message).c_str());
    failure_told = true;
  }
  return fresh.error();
}

const KeyRing* FindNewerRing(const KeyRing& ring) {
  if (CurrentRing() == &ring && steady_clock::now() >= search_at) {
    (void)ReadAnew();
    search_at = steady_clock::now() + Interval();
  }
  return CurrentRing() == &ring ? nullptr : CurrentRing();
}

}  // namespace

Result<const KeyRing*> LoadKeyRing() {
  if (seen_reload != PgReloadTime) ForgetKeyRing();
  seen_reload = PgReloadTime;
  if (rings != nullptr && rings->size() > 1) rings->erase(rings->begin(), rings->end() - 1);
  if (CurrentRing() != nullptr && (!stale || steady_clock::now() < retry_at)) return CurrentRing();
  Status read = ReadAnew();
  if (CurrentRing() == nullptr) return read.error();
  return CurrentRing();
}

void ForgetKeyRing() {
  stale = true;
  file_named = false;
  failure_told = false;
  retry_at = search_at = {};
  ForgetCommandFailure();
}

}  // namespace token_refresh
