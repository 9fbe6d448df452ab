// Refresh tokens of sessions, UUIDs, and new keys to sign with.
#include "core/session_refresh_token.h"

#include <gtest/gtest.h>

#include <string>

#include "core/encoding.h"
#include "core/jwt_claims.h"
#include "core/new_key.h"

namespace token_refresh {
namespace {

constexpr std::string_view kSecret = "an obviously fake secret";

SessionRefreshToken SomeToken() {
  SessionRefreshToken token;
  for (size_t i = 0; i < token.session.size(); ++i) token.session[i] = static_cast<uint8_t>(i * 17);
  token.counter = 0x01020304;
  token.expires_at = 1767225600000001;
  return token;
}

std::string Made(const SessionRefreshToken& token, std::string_view secret = kSecret) {
  auto made = MakeSessionRefreshToken(secret, token);
  EXPECT_TRUE(made);
  return std::string(made->view());
}

std::optional<SessionRefreshToken> ReadBack(std::string_view token, std::string_view secret = kSecret) {
  auto read = ReadSessionRefreshToken(secret, token);
  EXPECT_TRUE(read);
  return *read;
}

TEST(SessionRefreshTokenTest, ComesBackAsItWasMade) {
  const std::string token = Made(SomeToken());
  EXPECT_EQ(token.size(), kSessionRefreshTokenChars);
  EXPECT_TRUE(token.starts_with("trs_"));
  EXPECT_EQ(token, Made(SomeToken()));
  const auto read = ReadBack(token);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->session, SomeToken().session);
  EXPECT_EQ(read->counter, 0x01020304u);
  EXPECT_EQ(read->expires_at, 1767225600000001);
}

TEST(SessionRefreshTokenTest, EveryPartCounts) {
  SessionRefreshToken other = SomeToken();
  other.counter++;
  EXPECT_NE(Made(other), Made(SomeToken()));
  other = SomeToken();
  other.expires_at++;
  EXPECT_NE(Made(other), Made(SomeToken()));
  EXPECT_NE(Made(SomeToken(), "another fake secret"), Made(SomeToken()));
}

TEST(SessionRefreshTokenTest, AnyChangeIsNoticed) {
  const std::string token = Made(SomeToken());
  for (size_t i = 0; i < token.size(); ++i) {
    std::string changed = token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(ReadBack(changed).has_value()) << i;
    EXPECT_FALSE(ReadBack(token.substr(0, i)).has_value()) << i;
  }
  EXPECT_FALSE(ReadBack(token + "A").has_value());
  EXPECT_FALSE(ReadBack(token, "another fake secret").has_value());
  EXPECT_FALSE(ReadBack(std::string(token.size(), '\0')).has_value());
}

// The MAC is of this purpose: a bare HMAC of the same bytes under the same secret is none.
TEST(SessionRefreshTokenTest, HasADomainOfItsOwn) {
  const auto bytes = Base64UrlDecode(Made(SomeToken()).substr(4));
  ASSERT_TRUE(bytes.has_value());
  std::string payload(bytes->view().substr(0, 28));
  const auto mac = HmacSha256(kSecret, payload);
  ASSERT_TRUE(mac);
  payload.append(BytesOf(*mac));
  EXPECT_FALSE(ReadBack("trs_" + Base64UrlEncode(payload)).has_value());
}

TEST(UuidTest, TheUsualFormAlone) {
  const auto uuid = ParseUuid("01234567-89ab-4def-8123-456789abcdef");
  ASSERT_TRUE(uuid.has_value());
  EXPECT_EQ(HexEncode(BytesOf(*uuid)), "0123456789ab4def8123456789abcdef");
  for (const char* text : {"", "0123456789ab4def8123456789abcdef", "01234567-89AB-4def-8123-456789abcdef",
                           "{01234567-89ab-4def-8123-456789abcde}", "01234567-89ab-4def-8123-456789abcde",
                           "01234567-89ab-4def-8123-456789abcdef0", "01234567-89ab-4def-8123-456789abcdeg",
                           "01234567089ab-4def-8123-456789abcdef", " 1234567-89ab-4def-8123-456789abcdef"}) {
    EXPECT_FALSE(ParseUuid(text).has_value()) << text;
  }
}

TEST(NewKeyTest, EachSignsAndIsAnother) {
  for (const JwsAlgorithm algorithm :
       {JwsAlgorithm::kHs256, JwsAlgorithm::kEs256, JwsAlgorithm::kEdDsa, JwsAlgorithm::kRs256}) {
    const auto material = MakeKeyFor(algorithm);
    ASSERT_TRUE(material) << JwsAlgorithmName(algorithm);
    const auto key = algorithm == JwsAlgorithm::kHs256 ? SigningKey::FromSecret(material->view(), "kid")
                                                       : SigningKey::FromPem(material->view(), algorithm, "kid");
    ASSERT_TRUE(key) << key.error().message;
    const auto token = SignJwt(*key, R"({"sub":"alice"})");
    ASSERT_TRUE(token);
    JwkSet keys;
    keys.Add(key->verification_key());
    EXPECT_TRUE(VerifyJws(*token, keys).ok());
    if (algorithm == JwsAlgorithm::kRs256) continue;  // slow to make
    const auto another = MakeKeyFor(algorithm);
    ASSERT_TRUE(another);
    EXPECT_FALSE(another->Equals(material->view()));
  }
}

}  // namespace
}  // namespace token_refresh
