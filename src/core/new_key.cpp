#include "core/new_key.h"

#include <openssl/pem.h>
#include <openssl/rand.h>

#include <array>

#include "core/openssl_handles.h"

namespace token_refresh {
namespace {

constexpr size_t kRsaBits = 3072;

Pkey Generate(JwsAlgorithm algorithm) {
  switch (algorithm) {
    case JwsAlgorithm::kEs256:
      return Pkey(EVP_EC_gen("prime256v1"));
    case JwsAlgorithm::kEdDsa:
      return Pkey(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
    case JwsAlgorithm::kRs256:
    case JwsAlgorithm::kPs256:
      return Pkey(EVP_RSA_gen(kRsaBits));
    case JwsAlgorithm::kHs256:
      break;
  }
  return nullptr;
}

Result<Secret> WritePem(const EVP_PKEY* key) {
  // Of the kind that is wiped when it is freed.
  const Bio sink(BIO_new(BIO_s_secmem()));
  if (sink == nullptr || PEM_write_bio_PKCS8PrivateKey(sink.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return OpensslError("write a private key");
  char* text = nullptr;
  const long size = BIO_get_mem_data(sink.get(), &text);
  return Secret(std::string_view(text, static_cast<size_t>(size)));
}

}  // namespace

Result<Secret> MakeSecret() {
  std::array<unsigned char, kNewSecretBytes> bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) return OpensslError("draw a secret");
  Secret secret({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  OPENSSL_cleanse(bytes.data(), bytes.size());
  return secret;
}

Result<Secret> MakeKeyFor(JwsAlgorithm algorithm) {
  if (algorithm == JwsAlgorithm::kHs256) return MakeSecret();
  const Pkey key = Generate(algorithm);
  if (key == nullptr) return OpensslError("make a private key");
  return WritePem(key.get());
}

}  // namespace token_refresh
