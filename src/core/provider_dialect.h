// In what a provider differs from the textbook: how it wants to be asked, and how it answers. Parts of
// ProviderOptions; the keys of the options are in docs/reference.md.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/jws_algorithm.h"

namespace token_refresh {

enum class RequestMethod { kPost, kGet };
// kQuery: the parameters stand in the URL.
enum class RequestFormat { kForm, kJson, kQuery };
// What a refresh presents besides the client.
enum class RefreshWith { kRefreshToken, kAccessToken, kNothing };

constexpr char kRefreshTokenGrant[] = "refresh_token";
constexpr char kClientCredentialsGrant[] = "client_credentials";
constexpr char kJwtBearerGrant[] = "urn:ietf:params:oauth:grant-type:jwt-bearer";          // RFC 7523 section 2.1
constexpr char kTokenExchangeGrant[] = "urn:ietf:params:oauth:grant-type:token-exchange";  // RFC 8693 section 2.1

enum class SignatureEncoding { kHex, kUpperHex, kBase64 };

// An HMAC-SHA256 over what a request is made of. Both texts have places, see request_signature.h.
struct RequestSignature {
  std::string text;
  std::string key = "${client_secret}";
  SignatureEncoding encoding = SignatureEncoding::kHex;

  bool operator==(const RequestSignature&) const = default;
};

// How a refresh is asked for.
struct RequestDialect {
  RequestMethod method = RequestMethod::kPost;
  RequestFormat format = RequestFormat::kForm;
  std::string grant_type = kRefreshTokenGrant;
  RefreshWith refresh_with = RefreshWith::kRefreshToken;
  std::map<std::string, std::string> param_names;  // standard name -> the one that is sent
  std::map<std::string, std::string> authorization_param_names;  // the same, of the authorization request
  std::string scope_separator = " ";
  std::map<std::string, std::string> variables;  // values of the registration, for ${name}
  std::vector<std::string> allowed_hosts;        // lower case; "*.example.com" or a whole host
  std::optional<RequestSignature> signature;

  bool operator==(const RequestDialect&) const = default;
};

// A claim that assertion_claims adds to a JWT, replaces or removes.
struct AssertionClaim {
  enum class Kind { kText, kJson, kRemoved };
  Kind kind = Kind::kRemoved;
  std::string text;  // kText: may hold places for values; kJson: as it is sent

  bool operator==(const AssertionClaim&) const = default;
};

// The JWT with which the client proves itself, or that is the grant (RFC 7523).
struct AssertionOptions {
  std::optional<JwsAlgorithm> algorithm;  // unset: the usual one of the key
  std::string audience;                   // empty: the token endpoint
  std::string subject;                    // of the grant; empty: the client
  std::map<std::string, AssertionClaim> claims;
  std::map<std::string, std::string> headers;  // of the JWS, as kid
  Micros lifetime = kMinute;

  bool operator==(const AssertionOptions&) const = default;
};

enum class LifetimeUnit { kSeconds, kMilliseconds };
enum class ExpirySource { kResponse, kIntrospection, kJwt };

// One more pair of tokens in the same answer.
struct SecondaryTokenOption {
  std::string label;    // of the credential that they belong to
  std::string pointer;  // RFC 6901: to the object that holds them

  bool operator==(const SecondaryTokenOption&) const = default;
};

// kAuto: the body decides between JSON and form encoding.
enum class AnswerFormat { kAuto, kXml };

// How an answer is read.
struct AnswerDialect {
  AnswerFormat format = AnswerFormat::kAuto;
  std::map<std::string, std::string> pointers;  // field of RFC 6749 section 5 -> RFC 6901
  std::vector<int> success_statuses;            // empty: any of 2xx
  std::string success_pointer;                  // empty: not looked at
  std::optional<std::string> success_value;
  LifetimeUnit expires_in_unit = LifetimeUnit::kSeconds;
  ExpirySource expiry_source = ExpirySource::kResponse;
  std::map<std::string, std::string> captured_fields;  // name -> RFC 6901
  std::vector<SecondaryTokenOption> secondary_tokens;

  bool operator==(const AnswerDialect&) const = default;
};

}  // namespace token_refresh
