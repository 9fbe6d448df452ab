#include "core/authorization_url.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "core/ascii.h"
#include "core/curl_transport.h"
#include "core/encoding.h"
#include "core/form_params.h"
#include "core/new_key.h"
#include "core/option_values.h"
#include "core/parsed_url.h"
#include "core/provider_request.h"
#include "core/url_template.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

using Changes = std::map<std::string, std::optional<std::string>>;

// What ties the answer to this client and this request; and what would be read in the place of all others (RFC 9101).
constexpr std::array<std::string_view, 7> kFixedParams = {"state", "response_type", "client_id",  "redirect_uri",
                                                          "nonce", "request",       "request_uri"};
constexpr std::string_view kChallenge = "code_challenge";
constexpr std::string_view kChallengeMethod = "code_challenge_method";

Error Invalid(std::string message, std::string hint = {}) {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(hint)};
}

Result<Secret> MakeWord() {
  const Result<Secret> bytes = MakeSecret();
  if (!bytes) return bytes.error();
  std::string word = Base64UrlEncode(bytes->view());
  return Secret::TakeFrom(word);
}

bool IsUriChar(char c) {
  return IsAsciiAlphanumeric(c) || std::string_view("-._~:/?[]@!$&'()*+,;=%").find(c) != std::string_view::npos;
}

bool IsSchemeChar(char c) { return IsAsciiAlphanumeric(c) || c == '.' || c == '-' || c == '+'; }

// RFC 8252 section 7.1: the name of a domain backwards, so that it is the application's own.
bool IsPrivateUseUri(std::string_view uri) {
  const size_t colon = uri.find(':');
  if (colon == std::string_view::npos || colon + 1 == uri.size() || uri[colon + 1] != '/') return false;
  const std::string_view scheme = uri.substr(0, colon);
  return !scheme.empty() && IsAsciiAlpha(scheme.front()) && scheme.find('.') != std::string_view::npos &&
         std::all_of(scheme.begin(), scheme.end(), IsSchemeChar) && std::all_of(uri.begin(), uri.end(), IsUriChar);
}

// renamed: the standard parameters that the provider knows by another name. Each is changed by its standard name.
Status CheckName(std::string_view name, const std::map<std::string, std::string>& renamed) {
  if (name.empty() || !IsCleanText(name)) return Invalid("the name of an authorization parameter is not usable");
  for (const auto& [standard, sent] : renamed) {
    if (name == sent && !renamed.contains(sent)) {
      return Invalid("authorization parameter " + QuoteWord(name) + " is what " + QuoteWord(standard) +
                     " is called here");
    }
  }
  if (std::find(kFixedParams.begin(), kFixedParams.end(), name) == kFixedParams.end()) return Ok();
  return Invalid("authorization parameter " + QuoteWord(name) + " can be neither replaced nor removed");
}

// Whether PKCE is done without.
Result<bool> RemovesChallenge(const Changes& changes) {
  size_t removed = 0;
  for (const std::string_view name : {kChallenge, kChallengeMethod}) {
    const auto found = changes.find(std::string(name));
    if (found == changes.end()) continue;
    if (found->second.has_value()) return Invalid("authorization parameter " + QuoteWord(name) + " cannot be replaced");
    ++removed;
  }
  if (removed != 1) return removed == 2;
  return Invalid("authorization parameters " + QuoteWord(kChallenge) + " and " + QuoteWord(kChallengeMethod) +
                 " can only be removed together");
}

Status Apply(const Changes& changes, const std::map<std::string, std::string>& renamed, FormParams& params,
             bool& uses_pkce) {
  for (const auto& [name, value] : changes) {
    if (Status status = CheckName(name, renamed); !status) return status;
    if (value.has_value()) {
      params.Set(name, *value);
    } else {
      params.Remove(name);
    }
  }
  const Result<bool> removed = RemovesChallenge(changes);
  if (!removed) return removed.error();
  if (*removed) uses_pkce = false;
  return Ok();
}

std::set<std::string_view> NamesIn(std::string_view query) {
  std::set<std::string_view> names;
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    if (!pair.empty()) names.insert(pair.substr(0, pair.find('=')));
  }
  return names;
}

// RFC 6749 section 3.1: the endpoint's own query stays, and no parameter is there twice.
Result<std::string> AppendQuery(std::string url, std::string_view query) {
  const size_t mark = url.find('?');
  if (mark == std::string::npos) return (url += '?').append(query);
  const std::string_view own_query = std::string_view(url).substr(mark + 1);
  const std::set<std::string_view> names = NamesIn(query);
  for (const std::string_view name : NamesIn(own_query)) {
    if (names.contains(name)) {
      return Invalid("option \"authorization_endpoint\" has the parameter " + QuoteWord(name) + " in its query",
                     "Take it out of the query; a fixed parameter belongs into authorization_params.");
    }
  }
  if (!own_query.empty() && !own_query.ends_with('&')) url += '&';
  return url.append(query);
}

}  // namespace

Result<Secret> MakeCodeVerifier() { return MakeWord(); }

Result<Secret> MakeState() { return MakeWord(); }

Result<std::string> NonceFor(const Secret& code_verifier) {
  const Result<Sha256Digest> mac = HmacSha256(code_verifier.view(), "nonce");
  if (!mac) return mac.error();
  return Base64UrlEncode(BytesOf(*mac));
}

Result<std::string> CodeChallenge(const Secret& code_verifier) {
  const Result<Sha256Digest> digest = Sha256(code_verifier.view());
  if (!digest) return digest.error();
  return Base64UrlEncode(BytesOf(*digest));
}

Status CheckRedirectUri(const std::string& redirect_uri) {
  if (redirect_uri.size() > kMaxRedirectUriBytes) return Invalid("redirect_uri must be at most 2000 bytes long");
  if (redirect_uri.find('#') != std::string::npos) return Invalid("redirect_uri must not have a fragment");
  const std::optional<ParsedUrl> parsed = ParseHttpUrl(redirect_uri);
  if (parsed.has_value() && (parsed->scheme == "https" || IsLoopbackHost(parsed->host))) return Ok();
  if (!parsed.has_value() && IsPrivateUseUri(redirect_uri)) return Ok();
  return Invalid("redirect_uri is not a usable absolute URI",
                 "Give an https URL, an http URL of the loopback interface, or a URI with an application's own scheme, "
                 "which has a dot in it, such as com.example.app:/callback.");
}

Result<AuthorizationUrl> BuildAuthorizationUrl(const Provider& provider, const AuthorizationParams& params) {
  const ProviderOptions& options = provider.options;
  if (options.authorization_endpoint.empty()) {
    return Invalid("the provider has no option \"authorization_endpoint\"",
                   "Set it, or let it be discovered from the issuer.");
  }
  if (HasPlaces(options.token_endpoint)) {
    return Invalid("option \"token_endpoint\" has places for captured fields, which are not known at a sign-in",
                   "Put them into refresh_endpoint, and where codes are exchanged into token_endpoint.");
  }
  if (Status status = CheckRedirectUri(params.redirect_uri); !status) return status.error();
  const Result<std::string> challenge = CodeChallenge(params.code_verifier);
  if (!challenge) return challenge.error();
  const Result<std::string> nonce = NonceFor(params.code_verifier);
  if (!nonce) return nonce.error();

  FormParams query;
  query.Add("response_type", "code");
  query.Add("client_id", provider.client_id);
  query.Add("redirect_uri", params.redirect_uri);
  if (!params.scope.empty()) query.AddOwned("scope", Secret(ScopeText(options.request, params.scope)));
  query.Add("state", params.state);
  query.Add(kChallenge, *challenge);
  query.Add(kChallengeMethod, "S256");
  if (params.nonce) query.Add("nonce", *nonce);

  const std::map<std::string, std::string>& renamed = options.request.authorization_param_names;
  AuthorizationUrl result;
  for (const Changes* changes : {&options.authorization_params, &params.extra}) {
    if (Status status = Apply(*changes, renamed, query, result.uses_pkce); !status) return status.error();
  }
  query.Rename(renamed);
  Result<std::string> url = AppendQuery(options.authorization_endpoint, query.Encode().view());
  if (!url) return url.error();
  if (url->size() > kMaxAuthorizationUrlBytes) return Invalid("the authorization URL is longer than 8192 bytes");
  result.url = *std::move(url);
  return result;
}

}  // namespace token_refresh
