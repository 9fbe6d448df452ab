// Assertions in the form of a JWT (RFC 7521, RFC 7523): with one the client proves itself, another is a grant by
// itself. For those who build requests, one thread at a time.
#pragma once

#include <string_view>

#include "core/clock.h"
#include "core/provider.h"
#include "core/result.h"
#include "core/secret.h"
#include "core/text_template.h"

namespace token_refresh {

struct AssertionInput {
  std::string_view audience;  // where assertion_audience says nothing: the token endpoint
  const FindValue& find;
  Micros now = 0;
  bool previous_secret = false;
};

// RFC 7523 section 2.2: iss and sub are the client, jti is new. Signed by HS256 with the client secret, or with
// the private key. Errors: kInvalidArgument for a key that cannot be used or a value that is missing; kInternal.
Result<Secret> MakeClientAssertion(const Provider& provider, const AssertionInput& input);

// RFC 7523 section 2.1: sub is assertion_subject, or else the client; assertion_claims come on top. Errors: the
// same.
Result<Secret> MakeGrantAssertion(const Provider& provider, const AssertionInput& input);

}  // namespace token_refresh
