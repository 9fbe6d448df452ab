#include "pg/verified_jwts.h"

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace token_refresh {

namespace {

// A JWT lies in one of the places of its set.
constexpr size_t kSets = 256;
constexpr size_t kPlacesOfSet = 4;
constexpr size_t kMaxClaimsBytes = 2048;

struct Place {
  Sha256Digest digest;
  uint64_t keys_version;
  std::string issuer;
  std::string audience;
  std::string claims;
  VerifiedSession session;
};

using Set = std::array<std::unique_ptr<Place>, kPlacesOfSet>;

// Nothing is constructed when the library is loaded.
std::vector<Set>* sets = nullptr;
size_t next_victim = 0;

Set& SetOf(const Sha256Digest& digest) {
  size_t number;
  memcpy(&number, digest.data(), sizeof(number));
  return (*sets)[number % kSets];
}

bool IsOf(const Place& place, const JwtSituation& situation) {
  return place.keys_version == situation.keys_version && place.issuer == situation.issuer &&
         place.audience == situation.audience;
}

// One that is free, or of no more use, or the next in turn.
std::unique_ptr<Place>& ChooseVictim(Set& set, const JwtSituation& situation) {
  for (std::unique_ptr<Place>& place : set)
    if (place == nullptr || !IsOf(*place, situation)) return place;
  return set[next_victim++ % kPlacesOfSet];
}

}  // namespace

const VerifiedSession* FindVerifiedJwt(const Sha256Digest& digest, const JwtSituation& situation) {
  if (sets == nullptr) return nullptr;
  for (const std::unique_ptr<Place>& place : SetOf(digest))
    if (place != nullptr && place->digest == digest && IsOf(*place, situation)) return &place->session;
  return nullptr;
}

void RememberJwt(const Sha256Digest& digest, const JwtSituation& situation, const VerifiedSession& session) {
  if (session.claims.size() > kMaxClaimsBytes) return;
  if (sets == nullptr) sets = new std::vector<Set>(kSets);
  auto place = std::make_unique<Place>();
  place->digest = digest;
  place->keys_version = situation.keys_version;
  place->issuer = situation.issuer;
  place->audience = situation.audience;
  place->claims = session.claims;
  place->session = session;
  place->session.claims = place->claims;
  ChooseVictim(SetOf(digest), situation) = std::move(place);
}

}  // namespace token_refresh
