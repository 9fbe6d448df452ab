#include "pg/given_secondary.h"

#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/catalog.h"
#include "pg/keys.h"

namespace token_refresh {

namespace {

std::optional<Micros> After(Micros from, const ParkedTime& time) {
  return time.known ? std::optional<Micros>(FromTimestamp(time.at) - from) : std::nullopt;
}

std::string OrEmpty(const char* text) { return text == nullptr ? std::string() : std::string(text); }

size_t LongestOf(const GivenSecondary& given) {
  if (given.tokens == nullptr) {
    const ParkedTokens& parked = *given.parked;
    const size_t words = (parked.token_type != nullptr ? strlen(parked.token_type) : 0) +
                         (parked.scope != nullptr ? strlen(parked.scope) : 0);
    return View(parked.access_token).size() + View(parked.refresh_token).size() + words;
  }
  const TokenSet& tokens = *given.tokens;
  return tokens.access_token.size() + tokens.refresh_token.size() + tokens.token_type.size() + tokens.scope.size();
}

// A SealForRow. The envelope of a secret is longer than that.
void SealForCredential(void* source, const char* row_key, CredentialColumns* sealed) {
  const auto* given = static_cast<const GivenSecondary*>(source);
  const OwnClient bound = {ClientIdOf(*given),
                           given->tokens != nullptr ? given->client.secret : View(given->parked->client_secret)};
  AllocateCredentialColumns(LongestOf(*given), bound, sealed);
  RunCpp([&] {
    return WithTokens(*given, [&](const TokenSet& tokens, const OwnClient& client) {
      return SealTokens(tokens, client, given->given_at, row_key, sealed);
    });
  });
}

}  // namespace

std::string_view ClientIdOf(const GivenSecondary& given) {
  if (given.tokens != nullptr) return given.client.id;
  return given.client_id != nullptr ? std::string_view(given.client_id) : std::string_view();
}

Status WithTokens(const GivenSecondary& given,
                  const std::function<Status(const TokenSet& tokens, const OwnClient& client)>& use) {
  if (given.tokens != nullptr) return use(*given.tokens, given.client);
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  const std::string key = std::to_string(given.parked_id);
  auto open = [&](const char* column, const bytea* sealed, Secret* to) -> Status {
    if (sealed == nullptr) return Ok();
    Result<Secret> opened = Open(**ring, {kParkedPlace, key, column}, View(sealed));
    if (!opened.ok()) return opened.error();
    *to = std::move(*opened);
    return Ok();
  };
  const ParkedTokens& parked = *given.parked;
  TokenSet tokens;
  Secret client_secret;
  Status status = open("access_token", parked.access_token, &tokens.access_token);
  if (status.ok()) status = open("refresh_token", parked.refresh_token, &tokens.refresh_token);
  if (status.ok()) status = open("client_secret", parked.client_secret, &client_secret);
  if (!status.ok()) return status;
  tokens.token_type = OrEmpty(parked.token_type);
  tokens.scope = OrEmpty(parked.scope);
  tokens.captured = OrEmpty(parked.captured);
  tokens.expires_in = After(given.given_at, parked.expires_at);
  tokens.refresh_expires_in = After(given.given_at, parked.refresh_expires_at);
  const std::string client_id = OrEmpty(given.client_id);
  return use(tokens, OwnClient{client_id, client_secret.view()});
}

bool WriteGiven(const GivenSecondary& given) {
  return WriteCredential(given.name, Grant::kSame, SealForCredential, const_cast<GivenSecondary*>(&given), "refresher",
                         given.asked_at) != 0;
}

// A trigger's own words may quote a token.
char* DescribeRejection(const GivenSecondary& given, const CaughtError& error) {
  char* reason = nullptr;
  RunCpp([&] {
    return WithTokens(given, [&](const TokenSet& tokens, const OwnClient& client) {
      const std::vector<std::string_view> secrets = {tokens.access_token.view(), tokens.refresh_token.view(),
                                                     client.secret};
      reason = CopyOut(std::string(unpack_sql_state(error.sqlstate)) + " " + ScrubText(error.message, secrets));
      return Ok();
    });
  });
  return reason;
}

}  // namespace token_refresh
