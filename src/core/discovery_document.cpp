#include "core/discovery_document.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/parsed_url.h"
#include "core/strict_json.h"

namespace token_refresh {
namespace {

// The names are the same in the documents and in the options.
constexpr std::array<std::string_view, 6> kEndpoints = {"token_endpoint",      "authorization_endpoint",
                                                        "revocation_endpoint", "introspection_endpoint",
                                                        "userinfo_endpoint",   "jwks_uri"};

constexpr std::string_view kIssAnnouncement = "authorization_response_iss_parameter_supported";

std::string_view WithoutLastSlash(std::string_view url) {
  if (url.ends_with('/')) url.remove_suffix(1);
  return url;
}

bool IsUsableUrl(const std::string& url, bool insecure_allowed) {
  const std::optional<ParsedUrl> parsed = ParseHttpUrl(url);
  return parsed.has_value() && (parsed->scheme == "https" || IsLoopbackHost(parsed->host) || insecure_allowed);
}

bool IsOnLoopback(const std::string& url) {
  const std::optional<ParsedUrl> parsed = ParseHttpUrl(url);
  return parsed.has_value() && IsLoopbackHost(parsed->host);
}

// What an issuer elsewhere says must not lead to what listens on this machine only.
bool MayLeadTo(const std::string& url, const DiscoveryRules& rules) {
  if (!IsUsableUrl(url, rules.insecure_allowed)) return false;
  return rules.insecure_allowed || !IsOnLoopback(url) || IsOnLoopback(std::string(rules.issuer));
}

std::string_view TextMember(const SecretJson& object, std::string_view name) {
  const SecretJson* member = FindMember(object, name);
  return member == nullptr ? std::string_view() : TextOf(*member).value_or(std::string_view());
}

// RFC 8414 section 2: without the list it is client_secret_basic, which is also the default of the option. Nothing
// for that, and when none of the methods is known here.
std::optional<std::string_view> ChooseAuthMethod(const SecretJson& document, const DiscoveryRules& rules) {
  if (!rules.auth_method.empty()) return rules.auth_method;
  if (!rules.has_client_secret) return "none";
  const SecretJson* methods = FindMember(document, "token_endpoint_auth_methods_supported");
  if (methods == nullptr || !methods->is_array()) return std::nullopt;
  for (const std::string_view method : {"client_secret_basic", "client_secret_post"}) {
    if (std::any_of(methods->begin(), methods->end(), [&](const SecretJson& m) { return TextOf(m) == method; })) {
      return method;
    }
  }
  return std::nullopt;
}

// RFC 9207 section 3. Not said is the same as false.
bool AnnouncesIss(const SecretJson& document) {
  const SecretJson* member = FindMember(document, kIssAnnouncement);
  return member != nullptr && member->is_boolean() && *member->get_ptr<const bool*>();
}

DiscoveredOptions Unusable(std::string message) { return {{}, "document_unusable", std::move(message)}; }

// What another server says is shown only if it is a plain URL, and not a long one.
std::string NameOfOther(std::string_view issuer) {
  const bool shown = issuer.size() <= 200 && ParseHttpUrl(std::string(issuer)).has_value();
  return shown ? "the document is of the issuer \"" + std::string(issuer) + "\", which is not the one that was asked"
               : "the issuer in the document is not the one that was asked";
}

DiscoveredOptions Mismatch(std::string_view found, std::string_view asked) {
  const bool differ_by_slash = WithoutLastSlash(found) == WithoutLastSlash(asked);
  return {{},
          "issuer_mismatch",
          differ_by_slash ? "the issuer in the document differs by a slash at its end; ask for that one"
                          : NameOfOther(found)};
}

}  // namespace

bool IsIssuer(const std::string& text, bool insecure_allowed) {
  return text.find('?') == std::string::npos && IsUsableUrl(text, insecure_allowed);
}

std::string OpenidConfigurationUrl(std::string_view issuer) {
  return std::string(WithoutLastSlash(issuer)) + "/.well-known/openid-configuration";
}

std::string OauthMetadataUrl(std::string_view issuer) {
  issuer = WithoutLastSlash(issuer);
  const size_t path = std::min(issuer.find('/', issuer.find("://") + 3), issuer.size());
  std::string url(issuer.substr(0, path));
  return url.append("/.well-known/oauth-authorization-server").append(issuer.substr(path));
}

DiscoveredOptions ReadDiscoveryDocument(std::string_view document, const DiscoveryRules& rules) {
  const std::optional<SecretJson> read = ParseStrictObject(document);
  if (!read.has_value()) return Unusable("the discovery document is not a JSON object without a name twice");
  if (const std::string_view issuer = TextMember(*read, "issuer"); issuer != rules.issuer) {
    return Mismatch(issuer, rules.issuer);
  }
  SecretJson options = SecretJson::object();
  options["issuer"] = SecretString(rules.issuer);
  for (const std::string_view name : kEndpoints) {
    const std::string_view url = TextMember(*read, name);
    if (MayLeadTo(std::string(url), rules)) options[SecretString(name)] = SecretString(url);
  }
  if (AnnouncesIss(*read)) options[SecretString(kIssAnnouncement)] = true;
  if (!options.contains("token_endpoint")) return Unusable("the discovery document has no usable token_endpoint");
  if (const auto method = ChooseAuthMethod(*read, rules); method.has_value()) {
    options["token_endpoint_auth_method"] = SecretString(*method);
  }
  return {std::string(std::string_view(options.dump(-1, ' ', false, SecretJson::error_handler_t::replace))), {}, {}};
}

}  // namespace token_refresh
