// Owners for OpenSSL objects, and one way to report that OpenSSL failed. Private
// to those files of src/core that call OpenSSL.
#pragma once

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <memory>

#include "core/result.h"

namespace token_refresh {

struct OpensslDeleter {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(EVP_MAC* mac) const { EVP_MAC_free(mac); }
  void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
  void operator()(OSSL_PARAM_BLD* builder) const { OSSL_PARAM_BLD_free(builder); }
  void operator()(OSSL_PARAM* params) const { OSSL_PARAM_free(params); }
  void operator()(BIGNUM* number) const { BN_free(number); }
  void operator()(ECDSA_SIG* signature) const { ECDSA_SIG_free(signature); }
  void operator()(BIO* source) const { BIO_free(source); }
};

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, OpensslDeleter>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, OpensslDeleter>;
using Mac = std::unique_ptr<EVP_MAC, OpensslDeleter>;
using MacContext = std::unique_ptr<EVP_MAC_CTX, OpensslDeleter>;
using Pkey = std::unique_ptr<EVP_PKEY, OpensslDeleter>;
using PkeyContext = std::unique_ptr<EVP_PKEY_CTX, OpensslDeleter>;
using ParamBuilder = std::unique_ptr<OSSL_PARAM_BLD, OpensslDeleter>;
using Params = std::unique_ptr<OSSL_PARAM, OpensslDeleter>;
using BigNumber = std::unique_ptr<BIGNUM, OpensslDeleter>;
using EcdsaSignature = std::unique_ptr<ECDSA_SIG, OpensslDeleter>;
using Bio = std::unique_ptr<BIO, OpensslDeleter>;

// Says which operation failed and OpenSSL's own reason, which is one of its
// fixed texts, and empties its error queue: a later, unrelated caller (curl, the
// server's TLS) must not find our failure there.
Error OpensslError(const char* operation);

// Whether what OpenSSL just refused says nothing about its input. Empties its error queue: the reason may lie
// below those that it caused.
bool OpensslRanOutOfMemory();

inline const unsigned char* OpensslBytes(const char* bytes) { return reinterpret_cast<const unsigned char*>(bytes); }
inline unsigned char* OpensslBytes(char* bytes) { return reinterpret_cast<unsigned char*>(bytes); }

}  // namespace token_refresh
