// The option request_signature: an HMAC-SHA256 (RFC 2104) over what a request is made of, or, without a key, its plain
// SHA-256, which stands where the request has ${signature}. For those who build requests, and for the parser of the
// options.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/provider.h"
#include "core/result.h"
#include "core/text_template.h"

namespace token_refresh {

constexpr std::string_view kSignatureName = "signature";

// What only the text and the key of a signature may name: body (of the request), token (that is presented) and
// client_secret.
const std::vector<std::string_view>& SignedValueNames();

// Then the signature can only stand in a header.
bool SignsBody(const RequestSignature& signature);

// Makes the signature of one request. All that it is given must live as long as it does.
class RequestSigner {
 public:
  // values: for the other places. token: what the request presents.
  RequestSigner(const Provider& provider, bool previous_secret, const FindValue& values, std::string_view token);

  // First before anything is put into places, then when the body is known. Does nothing for a provider without the
  // option. Errors: kInvalidArgument, naming the value that is missing; kInternal. Without a value in them.
  Status SignBefore();
  Status SignBody(std::string_view body);

  // The values, and ${signature} once it is made.
  FindValue Finder() const;

 private:
  Status Sign(std::string_view body);
  Result<Secret> Fill(const std::string& text, std::string_view body) const;
  bool AppendSecret(const std::vector<std::string>& names, std::string_view body, Secret& out) const;

  const Provider& provider_;
  const FindValue& values_;
  std::string_view token_;
  std::string_view client_secret_;
  std::optional<std::string> signature_;
};

}  // namespace token_refresh
