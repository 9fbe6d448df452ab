// What a provider's client_secret holds: a secret that is sent, a private key that signs and is never sent, or
// both. For those who build requests, and for the check of a new secret.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/jws_key.h"
#include "core/provider.h"
#include "core/result.h"

namespace token_refresh {

// Views into the text that was split.
struct ClientSecretParts {
  std::string_view secret;
  std::string_view key_pem;
};

// A key is the text from "-----BEGIN " on; what stands before it, without white space at its ends, is the secret.
// Without a key all of it is the secret.
ClientSecretParts SplitClientSecret(std::string_view client_secret);

// Adds what an answer may echo of a provider's two secrets: they, and the part of each that is sent. Views into the
// provider.
void AddClientSecrets(const Provider& provider, std::vector<std::string_view>& secrets);

// Whether the options can do with this secret: a key is there where one is needed, can be read and fits the
// algorithm; none is where it would be sent, or taken for a secret. Errors: kInvalidArgument, without any part of the
// secret; kInternal.
Status CheckClientSecret(const ProviderOptions& options, std::string_view client_secret);

// The key of the one secret or the other, made once. Errors: as CheckClientSecret.
Result<std::shared_ptr<const SigningKey>> ClientSigningKey(const Provider& provider, bool previous_secret);

}  // namespace token_refresh
