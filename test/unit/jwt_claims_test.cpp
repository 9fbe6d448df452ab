#include "core/jwt_claims.h"

#include <gtest/gtest.h>
#include <openssl/err.h>

#include <set>
#include <string>
#include <vector>

#include "core/strict_json.h"
#include "jose_keys.h"

namespace token_refresh {
namespace {

constexpr Micros kNow = 1800000000 * kSecond;

ClaimRules Rules() {
  ClaimRules rules;
  rules.now = kNow;
  return rules;
}

std::string Checked(const std::string& json, const ClaimRules& rules) {
  const auto claims = ParseStrictObject(json);
  EXPECT_TRUE(claims) << json;
  return std::string(JwtFailureWord(CheckClaims(claims.value_or(SecretJson()), rules)));
}

// The members besides an exp that lies in the future.
std::string With(const std::string& members, const ClaimRules& rules = Rules()) {
  return Checked("{\"exp\":1800000100" + (members.empty() ? "" : "," + members) + "}", rules);
}

std::string AtTime(const std::string& members, Micros now, Micros leeway = 0) {
  ClaimRules rules;
  rules.now = now;
  rules.leeway = leeway;
  return Checked("{" + members + "}", rules);
}

TEST(JwtFailure, EveryOneHasItsWord) {
  std::set<std::string_view> words;
  const int last = static_cast<int>(JwtFailure::kInternal);
  for (int i = 0; i <= last; ++i) {
    const auto failure = static_cast<JwtFailure>(i);
    EXPECT_FALSE(JwtFailureWord(failure).empty());
    EXPECT_EQ(JwtFailureText(failure).empty(), failure == JwtFailure::kNone);
    words.insert(JwtFailureWord(failure));
  }
  EXPECT_EQ(words.size(), static_cast<size_t>(last) + 1);
}

TEST(JwtClaims, Expiry) {
  EXPECT_EQ(AtTime("\"exp\":1000", 1000 * kSecond - 1), "none");
  EXPECT_EQ(AtTime("\"exp\":1000", 1000 * kSecond), "expired");
  EXPECT_EQ(AtTime("\"exp\":1000.5", 1000 * kSecond + 499999), "none");
  EXPECT_EQ(AtTime("\"exp\":1000.5", 1000 * kSecond + 500000), "expired");
  EXPECT_EQ(AtTime("\"exp\":1e3", 999 * kSecond), "none");
  EXPECT_EQ(AtTime("\"exp\":1000", 1009 * kSecond, 10 * kSecond), "none");
  EXPECT_EQ(AtTime("\"exp\":1000", 1010 * kSecond, 10 * kSecond), "expired");
  EXPECT_EQ(AtTime("\"exp\":0", kNow), "expired");
  EXPECT_EQ(AtTime("\"exp\":253402300799", kNow), "none");
  EXPECT_EQ(AtTime("", kNow), "missing_claim");
}

TEST(JwtClaims, NotBeforeAndIssuedAt) {
  EXPECT_EQ(With("\"nbf\":1800000000"), "none");
  EXPECT_EQ(With("\"nbf\":1800000000.5"), "not_yet_valid");
  EXPECT_EQ(With("\"nbf\":1800000001"), "not_yet_valid");
  EXPECT_EQ(With("\"iat\":1800000000"), "none");
  EXPECT_EQ(With("\"iat\":1800000001"), "issued_in_future");
  EXPECT_EQ(With("\"iat\":0,\"nbf\":0"), "none");
  ClaimRules tolerant = Rules();
  tolerant.leeway = 5 * kSecond;
  EXPECT_EQ(With("\"nbf\":1800000005,\"iat\":1800000005", tolerant), "none");
  EXPECT_EQ(With("\"nbf\":1800000006", tolerant), "not_yet_valid");
  EXPECT_EQ(With("\"iat\":1800000006", tolerant), "issued_in_future");
}

TEST(JwtClaims, TimesThatAreNone) {
  for (const char* value : {"\"1900000000\"", "\"\"", "null", "true", "[1900000000]", "{}", "-1", "-0", "-0.5",
                            "-1e300", "253402300800", "253402300799.5", "9223372036854775807", "18446744073709551615",
                            "18446744073709551616", "1e300", "\"NaN\"", "\"2030-01-01T00:00:00Z\""}) {
    for (const char* name : {"exp", "nbf", "iat"}) {
      const std::string others = std::string(name) == "exp" ? "" : "\"exp\":1900000000,";
      EXPECT_EQ(AtTime(others + "\"" + name + "\":" + value, kNow), "malformed_claims") << name << " " << value;
    }
  }
}

TEST(JwtClaims, Issuer) {
  ClaimRules rules = Rules();
  EXPECT_EQ(With("\"iss\":\"anyone\"", rules), "none");
  rules.issuer = "https://idp.example";
  EXPECT_EQ(With("\"iss\":\"https://idp.example\"", rules), "none");
  for (const char* issuer : {"https://idp.example/", "https://IDP.example", "http://idp.example", "", "https://idp",
                             "https://idp.example.attacker.example"}) {
    EXPECT_EQ(With("\"iss\":\"" + std::string(issuer) + "\"", rules), "wrong_issuer") << issuer;
  }
  EXPECT_EQ(With("", rules), "wrong_issuer");
  for (const char* value : {"null", "7", "[\"https://idp.example\"]", "{}"}) {
    EXPECT_EQ(With("\"iss\":" + std::string(value), rules), "malformed_claims") << value;
    EXPECT_EQ(With("\"iss\":" + std::string(value)), "malformed_claims") << value;
  }
}

TEST(JwtClaims, Audience) {
  ClaimRules rules = Rules();
  rules.audience = "me";
  for (const char* value : {"\"me\"", "[\"me\"]", "[\"you\",\"me\"]", "[\"me\",\"me\"]"}) {
    EXPECT_EQ(With("\"aud\":" + std::string(value), rules), "none") << value;
    // Who is no audience is not meant.
    EXPECT_EQ(With("\"aud\":" + std::string(value)), "wrong_audience") << value;
  }
  for (const char* value : {"\"you\"", "\"\"", "[]", "[\"you\"]", "\"me \"", "\"ME\"", "\"me,you\"", "[\"m\",\"e\"]"}) {
    EXPECT_EQ(With("\"aud\":" + std::string(value), rules), "wrong_audience") << value;
  }
  for (const char* value : {"null", "7", "{}", "{\"me\":\"me\"}", "[7]", "[\"me\",7]", "[\"me\",null]", "[[\"me\"]]"}) {
    EXPECT_EQ(With("\"aud\":" + std::string(value), rules), "malformed_claims") << value;
    EXPECT_EQ(With("\"aud\":" + std::string(value)), "malformed_claims") << value;
  }
  EXPECT_EQ(With("", rules), "wrong_audience");
  EXPECT_EQ(With(""), "none");
}

TEST(JwtClaims, AuthorizedParty) {
  ClaimRules rules = Rules();
  rules.audience = "me";
  const std::string several = "\"aud\":[\"me\",\"you\"]";
  EXPECT_EQ(With(several + ",\"azp\":\"you\"", rules), "none") << "not asked for";
  rules.check_authorized_party = true;
  EXPECT_EQ(With("\"aud\":\"me\"", rules), "none");
  EXPECT_EQ(With("\"aud\":[\"me\"]", rules), "none");
  EXPECT_EQ(With("\"aud\":\"me\",\"azp\":\"me\"", rules), "none");
  EXPECT_EQ(With(several + ",\"azp\":\"me\"", rules), "none");
  EXPECT_EQ(With(several, rules), "wrong_authorized_party");
  EXPECT_EQ(With(several + ",\"azp\":\"you\"", rules), "wrong_authorized_party");
  EXPECT_EQ(With("\"aud\":\"me\",\"azp\":\"you\"", rules), "wrong_authorized_party");
  EXPECT_EQ(With("\"aud\":\"me\",\"azp\":\"\"", rules), "wrong_authorized_party");
  EXPECT_EQ(With("\"aud\":\"me\",\"azp\":[\"me\"]", rules), "malformed_claims");
}

TEST(JwtClaims, Nonce) {
  ClaimRules rules = Rules();
  EXPECT_EQ(With("\"nonce\":\"n-1\"", rules), "none");
  rules.nonce = "n-1";
  EXPECT_EQ(With("\"nonce\":\"n-1\"", rules), "none");
  for (const char* value : {"\"\"", "\"n-2\"", "\"N-1\"", "\"n-1 \""}) {
    EXPECT_EQ(With("\"nonce\":" + std::string(value), rules), "wrong_nonce") << value;
  }
  EXPECT_EQ(With("", rules), "wrong_nonce");
  EXPECT_EQ(With("\"nonce\":1", rules), "malformed_claims");
}

TEST(JwtClaims, AgeOfTheAuthentication) {
  ClaimRules rules = Rules();
  EXPECT_EQ(With("\"auth_time\":1", rules), "none");
  rules.max_authentication_age = kHour;
  EXPECT_EQ(With("\"auth_time\":1799996400", rules), "none");
  EXPECT_EQ(With("\"auth_time\":1799996399", rules), "authentication_too_old");
  rules.leeway = kSecond;
  EXPECT_EQ(With("\"auth_time\":1799996399", rules), "none");
  EXPECT_EQ(With("", rules), "missing_claim");
  EXPECT_EQ(With("\"auth_time\":\"1800000000\"", rules), "malformed_claims");
}

TEST(JwtClaims, SubjectsAndRequiredClaims) {
  for (const char* name : {"sub", "jti"}) {
    for (const char* value : {"\"\"", "null", "7", "[\"x\"]", "{}"}) {
      EXPECT_EQ(With("\"" + std::string(name) + "\":" + value), "malformed_claims") << name << value;
    }
    EXPECT_EQ(With("\"" + std::string(name) + "\":\"x\""), "none");
  }
  ClaimRules rules = Rules();
  rules.required = kIdTokenClaims;
  rules.audience = "me";
  const std::vector<std::string> members = {"\"iss\":\"x\"", "\"sub\":\"x\"", "\"aud\":\"me\"", "\"iat\":1"};
  std::string all;
  for (size_t missing = 0; missing < members.size(); ++missing) {
    std::string others;
    for (size_t i = 0; i < members.size(); ++i) {
      if (i != missing) others += (others.empty() ? "" : ",") + members[i];
    }
    EXPECT_EQ(With(others, rules), "missing_claim") << missing;
    all += (all.empty() ? "" : ",") + members[missing];
  }
  EXPECT_EQ(With(all, rules), "none");
}

std::string Refusal(const std::string& token, const JwkSet& keys, const ClaimRules& rules = Rules()) {
  const VerifiedJwt verified = VerifyJwt(token, keys, {}, rules);
  EXPECT_EQ(verified.ok(), !verified.payload.empty());
  EXPECT_EQ(verified.ok(), verified.claims.is_object());
  EXPECT_EQ(ERR_peek_error(), 0u);
  return std::string(JwtFailureWord(verified.failure));
}

TEST(Jwt, TheClaimsAreThoseThatWereSigned) {
  const SigningKey key = Hs256();
  const std::string claims = R"({"exp":1800000100, "sub":"é","list":[1,2]})";
  const VerifiedJwt verified = VerifyJwt(*SignJwt(key, claims), SetOf({key}), {}, Rules());
  ASSERT_TRUE(verified.ok());
  EXPECT_EQ(verified.payload.view(), claims);
  EXPECT_EQ(TextOf(*FindMember(verified.claims, "sub")), "é");
}

TEST(Jwt, ClaimsThatAreNone) {
  const SigningKey key = Es256();
  const std::string exp = "\"exp\":1800000100";
  for (const std::string& payload : std::vector<std::string>{
           "fake", "null", "[]", "\"x\"", "{", "{" + exp + "}{" + exp + "}", "[{" + exp + "}]",
           "{" + exp + "," + exp + "}", "{" + exp + ",\"e\\u0078p\":1}", "{" + exp + ",\"a\":{\"b\":1,\"b\":2}}",
           "{" + exp + ",\"a\":\"\xff\"}", "{" + exp + ",\"a\":\"\\u0000\"}",
           "{" + exp + ",\"a\":" + std::string(40, '[') + std::string(40, ']') + "}", "{\"exp\":NaN}",
           "{\"exp\":1e999}", "{\"exp\":Infinity}", "{" + exp + ",\"a\":1e-999}"}) {
    EXPECT_EQ(Refusal(Token(key, R"({"alg":"ES256"})", payload), SetOf({key})), "malformed_claims") << payload;
  }
}

TEST(Jwt, TheSignatureComesFirst) {
  const SigningKey key = Hs256();
  const std::string expired = *SignJwt(key, "{\"exp\":1}");
  EXPECT_EQ(Refusal(expired, SetOf({key})), "expired");
  EXPECT_EQ(Refusal(expired.substr(0, expired.size() - 2) + "AA", SetOf({key})), "wrong_signature");
  EXPECT_EQ(Refusal("fake", SetOf({key})), "malformed");
}

}  // namespace
}  // namespace token_refresh
