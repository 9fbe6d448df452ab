// Many sessions that ask the same question at the same moment.
//
//   herd_client CONNINFO SESSIONS WARM_UP_QUERY QUERY
//
// Opens the sessions, runs WARM_UP_QUERY in each, one after the other, then sends QUERY in all and
// waits for the answers (a minute at most). Prints: milliseconds until the first answer, until the last,
// how many answers, how many different ones. Status 1 when a session failed or answered nothing.
#include <libpq-fe.h>
#include <poll.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr int kPatienceMs = 60 * 1000;

using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

bool Fail(PGconn* session) {
  std::fprintf(stderr, "herd_client: %s", PQerrorMessage(session));
  return false;
}

bool Open(const char* conninfo, const char* warm_up, std::vector<PGconn*>& sessions) {
  for (PGconn*& session : sessions) {
    session = PQconnectdb(conninfo);
    if (PQstatus(session) != CONNECTION_OK) return Fail(session);
    PGresult* result = PQexec(session, warm_up);
    if (PQresultStatus(result) != PGRES_TUPLES_OK) return Fail(session);
    PQclear(result);
  }
  return true;
}

struct Answers {
  Clock::duration first{}, last{};
  size_t count = 0;
  std::set<std::string> different;
};

// The session has sent something. False: its query failed or gave no value.
bool Take(PGconn* session, Clock::time_point started, Answers& answers, bool& done) {
  if (PQconsumeInput(session) != 1) return Fail(session);
  if (PQisBusy(session)) return true;
  PGresult* result = PQgetResult(session);
  const bool good = PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1 && !PQgetisnull(result, 0, 0);
  if (good) {
    answers.last = Clock::now() - started;
    if (answers.count++ == 0) answers.first = answers.last;
    answers.different.insert(PQgetvalue(result, 0, 0));
  } else {
    std::fprintf(stderr, "herd_client: no answer: %s\n", PQresultErrorMessage(result));
  }
  PQclear(result);
  done = true;
  return good;
}

bool Ask(const char* query, const std::vector<PGconn*>& sessions, Answers& answers) {
  const auto started = Clock::now();
  for (PGconn* session : sessions)
    if (PQsendQuery(session, query) != 1) return Fail(session);
  std::vector<PGconn*> waiting = sessions;
  while (!waiting.empty()) {
    std::vector<pollfd> sockets;
    for (PGconn* session : waiting) sockets.push_back({PQsocket(session), POLLIN, 0});
    if (poll(sockets.data(), sockets.size(), kPatienceMs) <= 0) {
      std::fprintf(stderr, "herd_client: %zu sessions wait in vain\n", waiting.size());
      return false;
    }
    std::vector<PGconn*> still_waiting;
    for (size_t i = 0; i < waiting.size(); i++) {
      bool done = false;
      if (sockets[i].revents != 0 && !Take(waiting[i], started, answers, done)) return false;
      if (!done) still_waiting.push_back(waiting[i]);
    }
    waiting.swap(still_waiting);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: herd_client CONNINFO SESSIONS WARM_UP_QUERY QUERY\n");
    return 2;
  }
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  std::vector<PGconn*> sessions(static_cast<size_t>(std::atoi(argv[2])), nullptr);
  Answers answers;
  const bool good = Open(argv[1], argv[3], sessions) && Ask(argv[4], sessions, answers);
  for (PGconn* session : sessions) PQfinish(session);
  if (!good) return 1;
  std::printf("%.1f %.1f %zu %zu\n", Milliseconds(answers.first), Milliseconds(answers.last), answers.count,
              answers.different.size());
  return 0;
}
