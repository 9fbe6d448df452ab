#include "core/request_signature.h"

#include <algorithm>
#include <cctype>

#include "core/client_secret_parts.h"
#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr std::string_view kBody = "body";
constexpr std::string_view kToken = "token";
constexpr std::string_view kClientSecret = "client_secret";

bool Names(const std::string& text, std::string_view name) {
  const Result<TextTemplate> parsed = TextTemplate::Parse(text);
  if (!parsed) return false;
  return std::any_of(parsed->parts().begin(), parsed->parts().end(), [name](const TextTemplate::Part& part) {
    return std::find(part.names.begin(), part.names.end(), name) != part.names.end();
  });
}

std::string Encoded(SignatureEncoding encoding, const Sha256Digest& digest) {
  if (encoding == SignatureEncoding::kBase64) return Base64Encode(BytesOf(digest));
  std::string hex = HexEncode(BytesOf(digest));
  if (encoding == SignatureEncoding::kUpperHex) {
    std::transform(hex.begin(), hex.end(), hex.begin(), [](unsigned char c) { return std::toupper(c); });
  }
  return hex;
}

}  // namespace

const std::vector<std::string_view>& SignedValueNames() {
  static const std::vector<std::string_view> names = {kBody, kToken, kClientSecret};
  return names;
}

bool SignsBody(const RequestSignature& signature) {
  return Names(signature.text, kBody) || Names(signature.key, kBody);
}

RequestSigner::RequestSigner(const Provider& provider, bool previous_secret, const FindValue& values,
                             std::string_view token)
    : provider_(provider), values_(values), token_(token) {
  const Secret& whole = previous_secret ? provider.previous_client_secret : provider.client_secret;
  client_secret_ = SplitClientSecret(whole.view()).secret;
}

Status RequestSigner::SignBefore() {
  const std::optional<RequestSignature>& option = provider_.options.request.signature;
  return option.has_value() && !SignsBody(*option) ? Sign({}) : Ok();
}

Status RequestSigner::SignBody(std::string_view body) {
  const std::optional<RequestSignature>& option = provider_.options.request.signature;
  return option.has_value() && SignsBody(*option) ? Sign(body) : Ok();
}

FindValue RequestSigner::Finder() const {
  return [this](std::string_view name) { return name == kSignatureName && signature_ ? signature_ : values_(name); };
}

Status RequestSigner::Sign(std::string_view body) {
  const RequestSignature& option = *provider_.options.request.signature;
  const Result<Secret> text = Fill(option.text, body);
  if (!text) return text.error();
  const Result<Secret> key = Fill(option.key, body);
  if (!key) return key.error();
  const Result<Sha256Digest> digest = option.key.empty() ? Sha256(text->view()) : HmacSha256(key->view(), text->view());
  if (!digest) return digest.error();
  signature_ = Encoded(option.encoding, *digest);
  return Ok();
}

// As TextTemplate::Expand, into memory that is wiped.
Result<Secret> RequestSigner::Fill(const std::string& text, std::string_view body) const {
  const Result<TextTemplate> parsed = TextTemplate::Parse(text);
  if (!parsed) return parsed.error();
  Secret filled;
  for (const TextTemplate::Part& part : parsed->parts()) {
    filled.Append(part.text);
    if (part.names.empty() || AppendSecret(part.names, body, filled)) continue;
    const Result<std::string> value = ValueOf(part, values_);
    if (!value) return value.error();
    filled.Append(*value);
  }
  return filled;
}

// False when another value comes first, or there is none of these.
bool RequestSigner::AppendSecret(const std::vector<std::string>& names, std::string_view body, Secret& out) const {
  for (const std::string& name : names) {
    // A body may be empty, and is one all the same.
    if (name == kBody) return out.Append(body), true;
    const std::string_view secret = name == kToken          ? token_
                                    : name == kClientSecret ? client_secret_
                                                            : std::string_view();
    if (!secret.empty()) return out.Append(secret), true;
    if (!values_(name).value_or("").empty()) return false;
  }
  return false;
}

}  // namespace token_refresh
