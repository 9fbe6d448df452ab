// A provider for simulations: rotates refresh tokens strictly, answers late, and fails at random. Presenting a
// retired refresh token kills its grant, except within the replay window, where the
// successor is handed out again. It is the transport at the same time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fake_clock.h"
#include "http_messages.h"

namespace token_refresh {

class RotatingProvider : public HttpTransport {
 public:
  struct Grant {
    int64_t owner = 0;  // the credential
    std::string current, previous;
    Micros rotated_at = 0;
    bool dead = false;
    bool revoked = false;  // by the user
  };

  RotatingProvider(const FakeClock& clock, uint64_t seed, Micros replay_window)
      : clock_(clock), random_(seed), replay_window_(replay_window) {}

  // A user signs in: the first refresh token of a new grant.
  std::string NewGrant(int64_t owner) {
    const size_t index = grants.size();
    grants.push_back({owner, "", "", 0, false, false});
    grants.back().current = NewToken(index);
    return grants.back().current;
  }

  Grant* GrantOf(std::string_view token) {
    const auto found = grant_of_token_.find(std::string(token));
    return found == grant_of_token_.end() ? nullptr : &grants[found->second];
  }

  void Submit(uint64_t id, HttpRequest request) override {
    const std::string token = FormField(request, "refresh_token");
    const Grant* grant = GrantOf(token);
    ASSERT_NE(grant, nullptr) << "a refresh token that was never given out";
    requests++;
    EXPECT_EQ(++in_flight_of_[grant->owner], 1) << "two requests in flight for credential " << grant->owner;
    if (on_request) on_request(*grant, token);
    Flight flight{id, grant->owner, token, Fate::kArrives, {}};
    Plan(std::move(flight));
  }

  std::vector<HttpCompletion> Collect() override {
    std::vector<HttpCompletion> done;
    Advance();
    while (!answers_.empty() && answers_.begin()->first <= clock_.Now()) {
      Flight flight = std::move(answers_.begin()->second);
      answers_.erase(answers_.begin());
      in_flight_of_[flight.owner]--;
      answered++;
      done.push_back({flight.id, std::move(flight.response)});
    }
    return done;
  }

  size_t in_flight() const override { return arrivals_.size() + answers_.size(); }

  std::optional<Micros> NextEventAt() const {
    std::optional<Micros> next;
    if (!arrivals_.empty()) next = arrivals_.begin()->first;
    if (!answers_.empty()) next = std::min(answers_.begin()->first, next.value_or(answers_.begin()->first));
    return next;
  }

  // Requests reach the provider, whether or not anybody collects the answers.
  void Advance() {
    while (!arrivals_.empty() && arrivals_.begin()->first <= clock_.Now()) {
      Flight flight = std::move(arrivals_.begin()->second);
      arrivals_.erase(arrivals_.begin());
      Arrive(std::move(flight));
    }
  }

  // The client dies: half of what it has sent still arrives, and no answer is ever seen.
  void LoseEverything() {
    for (auto& [at, flight] : std::exchange(arrivals_, {}))
      if (Chance(0.5)) Handle(flight.token);
    answers_.clear();
    in_flight_of_.clear();
  }

  double fault_rate = 0;
  bool down = false;
  std::function<void(const Grant&, const std::string& token)> on_request;

  std::vector<Grant> grants;
  int requests = 0, answered = 0;
  int rotations = 0;

 private:
  // Of the answer to a request that arrives.
  enum class Fate { kArrives, kLost, kUnreadable, kWithoutAccessToken };

  struct Flight {
    uint64_t id;
    int64_t owner;
    std::string token;
    Fate fate;
    HttpResponse response;
  };

  bool Chance(double probability) { return std::uniform_real_distribution<double>(0, 1)(random_) < probability; }
  Micros Between(Micros low, Micros high) { return std::uniform_int_distribution<Micros>(low, high)(random_); }

  std::string NewToken(size_t grant) {
    const std::string token = "g" + std::to_string(grant) + "n" + std::to_string(next_token_++);
    grant_of_token_[token] = grant;
    return token;
  }

  void AnswerAt(Micros time, Flight flight, HttpResponse response) {
    flight.response = std::move(response);
    answers_.emplace(time, std::move(flight));
  }

  // What happens to the request on its way.
  void Plan(Flight flight) {
    const Micros now = clock_.Now();
    const Micros arrival = now + Between(10 * kMillisecond, 500 * kMillisecond);
    if (down) {
      if (Chance(0.5)) return AnswerAt(arrival, std::move(flight), MakeTransportFailure(TransportFailure::kNotSent));
      return AnswerAt(arrival, std::move(flight), MakeResponse(502, "<html>bad gateway</html>"));
    }
    if (Chance(fault_rate)) {
      switch (Between(0, 7)) {
        case 0:  // lost before it arrives
          return AnswerAt(now + 30 * kSecond, std::move(flight), MakeTransportFailure(TransportFailure::kMaybeHandled));
        case 1:  // handled, and the answer is lost
          flight.fate = Fate::kLost;
          break;
        case 2:
          return AnswerAt(arrival, std::move(flight), MakeResponse(500, R"({"error":"server_error"})"));
        case 3: {
          HttpResponse response = MakeResponse(429, "");
          if (Chance(0.5)) response.retry_after = std::to_string(Between(1, 20));
          return AnswerAt(arrival, std::move(flight), std::move(response));
        }
        case 4:
          return AnswerAt(arrival, std::move(flight), MakeResponse(200, "<html>please log in</html>"));
        case 5:
          return AnswerAt(arrival, std::move(flight), MakeTransportFailure(TransportFailure::kNotSent));
        case 6:
          flight.fate = Fate::kUnreadable;
          break;
        default:
          flight.fate = Fate::kWithoutAccessToken;
          break;
      }
    }
    arrivals_.emplace(arrival, std::move(flight));
  }

  void Arrive(Flight flight) {
    HttpResponse response = Handle(flight.token);
    if (flight.fate == Fate::kLost) {
      return AnswerAt(clock_.Now() + 30 * kSecond, std::move(flight),
                      MakeTransportFailure(TransportFailure::kMaybeHandled));
    }
    if (response.status == 200 && flight.fate == Fate::kUnreadable) {
      response = MakeResponse(200, response.body.view().substr(0, 20));
    } else if (response.status == 200 && flight.fate == Fate::kWithoutAccessToken) {
      response = MakeResponse(200, R"({"refresh_token":")" + GrantOf(flight.token)->current + R"("})");
    }
    AnswerAt(clock_.Now() + Between(10 * kMillisecond, 500 * kMillisecond), std::move(flight), std::move(response));
  }

  HttpResponse Handle(const std::string& token) {
    const size_t index = grant_of_token_.at(token);
    const bool current = token == grants[index].current;
    const bool replayed = token == grants[index].previous && clock_.Now() - grants[index].rotated_at <= replay_window_;
    if (!current && !replayed) grants[index].dead = true;
    if (grants[index].dead) return MakeResponse(400, R"({"error":"invalid_grant","error_description":"unknown"})");
    if (current) {
      grants[index].previous = token;
      grants[index].current = NewToken(index);
      grants[index].rotated_at = clock_.Now();
      rotations++;
    }
    return MakeResponse(200, R"({"access_token":"access)" + grants[index].current +
                                 R"(","expires_in":3600,"refresh_token":")" + grants[index].current + R"("})");
  }

  const FakeClock& clock_;
  std::mt19937_64 random_;
  const Micros replay_window_;
  std::unordered_map<std::string, size_t> grant_of_token_;
  std::map<int64_t, int> in_flight_of_;
  std::multimap<Micros, Flight> arrivals_, answers_;
  uint64_t next_token_ = 0;
};

}  // namespace token_refresh
