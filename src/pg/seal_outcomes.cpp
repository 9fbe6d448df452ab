#include "pg/seal_outcomes.h"

#include "core/encoding.h"
#include "core/sealed_box.h"
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/store.h"
#include "pg/token_tables.h"

namespace token_refresh {

namespace {

// The refresh token to go on with. An answer without one leaves that which was sent in use; where it had been
// parked the row holds an older one. Empty: the stored one stays.
const Secret& RefreshTokenToStore(const Outcome& outcome) {
  const Secret& fresh = outcome.NewRefreshToken();
  const Claim& claim = outcome.claim;
  if (!fresh.empty() || !outcome.tokens || claim.refresh_token.Equals(claim.StoredRefreshToken().view())) return fresh;
  return claim.refresh_token;
}

}  // namespace

TokenCipher CipherOf(int32_t token_table) {
  const TokenTable* table = KnownTokenTable(token_table);
  if (table == nullptr) return {};
  return {table->cipher, table->place, table->cipher_key != nullptr ? table->cipher_key : ""};
}

bool Rotated(const Outcome& outcome) {
  const Secret& next = RefreshTokenToStore(outcome);
  return !next.empty() && !next.Equals(outcome.claim.StoredRefreshToken().view());
}

Result<std::vector<SealedTokens>> SealForTable(std::span<const Outcome> outcomes, std::span<const SaveTarget> targets,
                                               const std::vector<size_t>& which) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  std::vector<SealedTokens> sealed(outcomes.size());
  for (size_t i : which) {
    const Claim& claim = outcomes[i].claim;
    const TokenCipher cipher = CipherOf(claim.token_table);
    auto seal = [&](std::string_view column, const Secret& token) {
      return SealTokenToStore(**ring, cipher, targets[i].row_key, column, token.view(), claim.stored_refresh_token);
    };
    sealed[i].rotated = Rotated(outcomes[i]);
    if (outcomes[i].tokens) {
      Result<std::string> access = seal("access_token", outcomes[i].tokens->access_token);
      if (!access.ok()) return access.error();
      sealed[i].access_token = std::move(*access);
    }
    const Secret& next = RefreshTokenToStore(outcomes[i]);
    // Under another key the one that stands there does not open any more.
    const bool seal_anew = next.empty() && cipher.kind == TableCipher::kNative && outcomes[i].tokens &&
                           targets[i].row_key != claim.row_key;
    if (next.empty() && !seal_anew) continue;
    Result<std::string> refresh = seal("refresh_token", seal_anew ? claim.refresh_token : next);
    if (!refresh.ok()) return refresh.error();
    sealed[i].refresh_token = std::move(*refresh);
  }
  return sealed;
}

Result<std::vector<SealedTokens>> SealForParking(std::span<const Outcome> outcomes, std::span<const SaveTarget> targets,
                                                 const std::vector<size_t>& which) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  std::vector<SealedTokens> sealed(outcomes.size());
  for (size_t i : which) {
    const Claim& claim = outcomes[i].claim;
    const std::string key = std::to_string(claim.schedule_id);
    auto seal = [&](const char* column, const Secret& token, std::string* out) -> Status {
      Result<std::string> envelope = Seal(**ring, {kParkedPlace, key, column}, token.view());
      if (envelope.ok()) *out = std::move(*envelope);
      return envelope.ok() ? Ok() : Status(envelope.error());
    };
    sealed[i].rotated = Rotated(outcomes[i]);
    sealed[i].replaced_digest = StoredDigest(targets[i].refresh_token);
    Status done = seal("replaces_refresh_token", claim.StoredRefreshToken(), &sealed[i].replaced);
    if (done.ok() && outcomes[i].tokens)
      done = seal("access_token", outcomes[i].tokens->access_token, &sealed[i].access_token);
    // One that the row holds already would pass for a reason to overwrite what others store beside it.
    if (done.ok() && (sealed[i].rotated || !outcomes[i].tokens))
      done = seal("refresh_token", RefreshTokenToStore(outcomes[i]), &sealed[i].refresh_token);
    if (!done.ok()) return done.error();
  }
  return sealed;
}

std::string StoredDigest(std::string_view stored) {
  Result<Sha256Digest> digest = stored.empty() ? Result<Sha256Digest>(Error{}) : Sha256(stored);
  return digest.ok() ? std::string(digest->begin(), digest->end()) : std::string();
}

}  // namespace token_refresh
