#include "pg/key_command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string>

#include "pg/postgres_api.h"

namespace token_refresh {

namespace {

using std::chrono::steady_clock;

// A signal ends a poll() at once; one that comes just before it is seen after this long.
constexpr int kGlanceMs = 50;

Error Failed(std::string message) {
  return Error{ErrorCode::kKeyMissing, "token_refresh.key_command " + std::move(message),
               "Run it as the server's user; it must print the key ring."};
}

struct Descriptor {
  int fd = -1;
  ~Descriptor() { Close(); }
  void Close() {
    if (fd >= 0) close(fd);
    fd = -1;
  }
};

struct Buffer {
  char bytes[4096];
  ~Buffer() { explicit_bzero(bytes, sizeof(bytes)); }
};

// The shell and what it has started. Whoever leaves early takes all of them along.
struct ProcessGroup {
  pid_t leader = 0;
  ~ProcessGroup() {
    if (leader == 0) return;
    kill(-leader, SIGKILL);
    while (waitpid(leader, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
};

Status MayWait(steady_clock::time_point until) {
  if (QueryCancelPending || ProcDiePending || ShutdownRequestPending)
    return Error{ErrorCode::kUnavailable, "waiting for token_refresh.key_command was interrupted", ""};
  if (steady_clock::now() >= until) return Failed("took longer than " + std::to_string(kKeyCommandSeconds) + " s");
  return Ok();
}

Status Start(const char* command, int output, pid_t* pid) {
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_t actions;
  if (posix_spawnattr_init(&attributes) != 0) return Failed("could not be run");
  if (posix_spawn_file_actions_init(&actions) != 0) {
    posix_spawnattr_destroy(&attributes);
    return Failed("could not be run");
  }
  sigset_t none, usual;
  sigemptyset(&none);
  sigemptyset(&usual);
  sigaddset(&usual, SIGPIPE);  // what the server ignores the command would ignore as well
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigdefault(&attributes, &usual);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  const char* const arguments[] = {"sh", "-c", command, nullptr};
  const int error =
      posix_spawn(pid, "/bin/sh", &actions, &attributes, const_cast<char* const*>(arguments), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return Failed(std::string("could not be run: ") + strerror(error));
  return Ok();
}

Result<Secret> ReadOutput(int fd, steady_clock::time_point until) {
  Secret text;
  Buffer buffer;
  for (;;) {
    if (Status may = MayWait(until); !may) return may.error();
    pollfd readable = {fd, POLLIN, 0};
    if (poll(&readable, 1, kGlanceMs) <= 0) continue;
    ssize_t n = read(fd, buffer.bytes, sizeof(buffer.bytes));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return Failed(std::string("could not be read: ") + strerror(errno));
    if (n == 0) return text;
    text.Append({buffer.bytes, static_cast<size_t>(n)});
    if (text.size() > kMaxKeyText) return Failed("prints more than a key ring can be");
  }
}

Status AwaitExit(ProcessGroup* group, steady_clock::time_point until) {
  int status = 0;
  // It has closed its output, so most often it has ended as well, or is about to.
  for (int glance_ms = 1;; glance_ms = std::min(2 * glance_ms, kGlanceMs)) {
    const pid_t ended = waitpid(group->leader, &status, WNOHANG);
    if (ended == group->leader) break;
    if (ended < 0 && errno != EINTR) return Failed("could not be waited for");
    if (Status may = MayWait(until); !may) return may;
    poll(nullptr, 0, glance_ms);
  }
  group->leader = 0;
  if (status != 0) return Failed("failed");
  return Ok();
}

}  // namespace

Result<Secret> RunKeyCommand(const char* command) {
  const auto until = steady_clock::now() + std::chrono::seconds(kKeyCommandSeconds);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Failed(std::string("could not be run: ") + strerror(errno));
  Descriptor output{ends[0]}, input{ends[1]};
  fcntl(output.fd, F_SETFL, O_NONBLOCK);
  ProcessGroup group;
  if (Status started = Start(command, input.fd, &group.leader); !started) {
    group.leader = 0;
    return started.error();
  }
  input.Close();
  Result<Secret> text = ReadOutput(output.fd, until);
  if (!text.ok()) return text;
  if (Status ended = AwaitExit(&group, until); !ended) return ended.error();
  return text;
}

}  // namespace token_refresh
