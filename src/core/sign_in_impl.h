// The state of the sign-ins, and their steps. Private to sign_in.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/http_calls.h"
#include "core/issuer_keys.h"
#include "core/sign_in.h"

namespace token_refresh {

struct SignIns::Impl {
  struct Flow {
    SignInRequest request;
    Micros begun_at = 0;
    std::string nonce;
    TokenSet tokens;
    bool keys_cached = false;  // the keys may be older than the token
    bool keys_renewed = false;
  };
  // By a number of our own, since nobody promises that ids are never used again.
  using Flows = std::map<uint64_t, Flow>;

  Impl(HttpTransport& transport, const Clock& clock, size_t max_under_way)
      : clock(clock), max_under_way(max_under_way), calls(transport, max_under_way), keys(calls, clock) {}

  bool HasRoomFor(const Provider& provider) const;

  void Begin(SignInRequest request);
  void TakeTokens(uint64_t number, const HttpResponse& response);
  void RefuseCode(uint64_t number, const HttpResponse& response, const FailedAnswer& failed);
  void Identify(uint64_t number);
  void CheckIdToken(uint64_t number, const std::shared_ptr<const JwkSet>& jwks, const std::string& why_not);
  bool RenewKeys(uint64_t number, Flow& flow, bool may_wait);
  void AskUserinfo(uint64_t number, const Flow& flow);
  void TakeUserinfo(uint64_t number, const HttpResponse& response);

  void Accept(uint64_t number, std::string claims);
  void Refuse(uint64_t number, std::string failure, std::string message);
  SignInResult TakeResult(uint64_t number);
  void Abandon();

  // Null when it has ended meanwhile.
  Flow* FindFlow(uint64_t number);
  // We are to stop, and so the request was not sent.
  bool WasHeldBack(const HttpResponse& response) const;

  const Clock& clock;
  const size_t max_under_way;
  HttpDefaults defaults;
  HttpCalls calls;
  IssuerKeys keys;
  Flows flows;
  std::map<std::string, size_t> under_way;  // of flows, by the name of the provider
  uint64_t next_number = 1;
  std::vector<SignInResult> finished;
  bool draining = false;
};

}  // namespace token_refresh
