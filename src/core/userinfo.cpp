#include "core/userinfo.h"

#include <optional>
#include <utility>

#include "core/answer_failure.h"
#include "core/provider_answer.h"
#include "core/strict_json.h"

namespace token_refresh {
namespace {

constexpr std::string_view kSignedType = "application/jwt";

Error Unusable(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message), {}}; }

// Text, or the digits of a whole number; nothing when it is neither, or names nobody.
std::optional<SecretString> SubjectText(const SecretJson* value) {
  if (value == nullptr) return std::nullopt;
  if (value->is_number_integer()) return value->dump(-1, ' ', false, SecretJson::error_handler_t::replace);
  const std::optional<std::string_view> text = TextOf(*value);
  if (!text.has_value() || text->empty()) return std::nullopt;
  return SecretString(*text);
}

// text is what claims was read from.
Result<std::string> WithSubject(const Provider& provider, SecretJson claims, std::string_view text) {
  std::optional<SecretString> subject = SubjectText(ResolvePointer(claims, provider.options.subject_pointer));
  if (!subject.has_value()) return Unusable("the answer does not say who it is: subject_pointer finds nothing in it");
  const SecretJson* known = FindMember(claims, "sub");
  if (known != nullptr && TextOf(*known) == std::string_view(*subject)) return std::string(text);
  claims["sub"] = *std::move(subject);
  return std::string(std::string_view(claims.dump(-1, ' ', false, SecretJson::error_handler_t::replace)));
}

}  // namespace

HttpRequest BuildUserinfoRequest(const Provider& provider, const Secret& access_token, const HttpDefaults& defaults) {
  HttpRequest request = NewProviderRequest(provider, provider.options.userinfo_endpoint, defaults);
  AddKnownHeaders(provider, request);
  Secret authorization("Bearer ");
  authorization.Append(access_token.view());
  SetHeader(request, "Authorization", authorization.view());
  return request;
}

Result<std::string> ReadUserinfo(const Provider& provider, const HttpResponse& response,
                                 const std::vector<std::string_view>& sent, Micros now) {
  const auto describe = [&](std::string_view complaint) {
    return DescribeFailure(provider, response, complaint, sent, now);
  };
  if (IsUnavailable(response)) return Error{ErrorCode::kUnavailable, describe(""), {}};
  if (!IsSuccess(response)) return Unusable(describe("not an answer that a userinfo endpoint gives"));
  if (response.content_type == kSignedType) {
    return Unusable(
        "the answer is a signed JWT, which is not read here; the client is to be registered for plain JSON");
  }
  std::optional<SecretJson> claims = ParseStrictObject(response.body.view());
  if (!claims.has_value()) return Unusable("the answer is not a JSON object without a name twice");
  // Some refuse with a success status.
  if (SaysError(*claims)) return Unusable(describe(""));
  return WithSubject(provider, *std::move(claims), response.body.view());
}

}  // namespace token_refresh
