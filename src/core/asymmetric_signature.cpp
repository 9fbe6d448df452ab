// The signatures of asymmetric_key.h.
#include <openssl/rsa.h>

#include <array>
#include <utility>

#include "core/asymmetric_key.h"
#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr size_t kEcdsaHalfBytes = 32;
constexpr size_t kEd25519SignatureBytes = 64;
constexpr size_t kMaxDerBytes = 72;  // of an ECDSA signature on P-256

// What JWS calls a signature of ECDSA, from what OpenSSL does: ASN.1 DER of the same two numbers.
std::optional<std::string> RawFromDer(std::string_view der) {
  const unsigned char* at = OpensslBytes(der.data());
  const EcdsaSignature parsed(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size())));
  std::string raw(2 * kEcdsaHalfBytes, '\0');
  if (parsed == nullptr ||
      BN_bn2binpad(ECDSA_SIG_get0_r(parsed.get()), OpensslBytes(raw.data()), kEcdsaHalfBytes) < 0 ||
      BN_bn2binpad(ECDSA_SIG_get0_s(parsed.get()), OpensslBytes(raw.data() + kEcdsaHalfBytes), kEcdsaHalfBytes) < 0) {
    return std::nullopt;
  }
  return raw;
}

struct DerSignature {
  std::array<char, kMaxDerBytes> bytes;
  size_t size = 0;
};

// The reverse, for a text of the right size. Whether the numbers are in range is OpenSSL's to say.
std::optional<DerSignature> DerFromRaw(std::string_view raw) {
  BigNumber r(BN_bin2bn(OpensslBytes(raw.data()), kEcdsaHalfBytes, nullptr));
  BigNumber s(BN_bin2bn(OpensslBytes(raw.data() + kEcdsaHalfBytes), kEcdsaHalfBytes, nullptr));
  const EcdsaSignature numbers(ECDSA_SIG_new());
  if (r == nullptr || s == nullptr || numbers == nullptr) return std::nullopt;
  ECDSA_SIG_set0(numbers.get(), r.release(), s.release());
  DerSignature der;
  unsigned char* end = OpensslBytes(der.bytes.data());
  const int size = i2d_ECDSA_SIG(numbers.get(), &end);
  if (size <= 0) return std::nullopt;
  der.size = static_cast<size_t>(size);
  return der;
}

bool SetUpHash(EVP_PKEY_CTX* context, JwsAlgorithm algorithm) {
  if (EVP_PKEY_CTX_set_signature_md(context, EVP_sha256()) != 1) return false;
  if (algorithm == JwsAlgorithm::kRs256) return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1;
  if (algorithm != JwsAlgorithm::kPs256) return true;
  // As long as the hash: RFC 7518 section 3.5 leaves no choice.
  return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) == 1 &&
         EVP_PKEY_CTX_set_rsa_pss_saltlen(context, RSA_PSS_SALTLEN_DIGEST) == 1;
}

// What OpenSSL answered about a signature. It reports many a wrong one as an error.
Result<bool> Verdict(int answer) {
  const bool ran_out_of_memory = OpensslRanOutOfMemory();
  if (answer != 1 && ran_out_of_memory) return OpensslError("check a signature");
  return answer == 1;
}

}  // namespace

bool AsymmetricKey::Allows(JwsAlgorithm algorithm) const {
  switch (type_) {
    case Type::kRsa:
      return algorithm == JwsAlgorithm::kRs256 || algorithm == JwsAlgorithm::kPs256;
    case Type::kP256:
      return algorithm == JwsAlgorithm::kEs256;
    case Type::kEd25519:
      return algorithm == JwsAlgorithm::kEdDsa;
  }
  return false;
}

Result<EVP_PKEY_CTX*> AsymmetricKey::Prepare(Purpose purpose, JwsAlgorithm algorithm) const {
  Prepared& prepared = purpose == Purpose::kSign ? signing_ : verifying_;
  if (prepared.context != nullptr && prepared.algorithm == algorithm) return prepared.context.get();
  prepared.context.reset();
  PkeyContext context(EVP_PKEY_CTX_new_from_pkey(nullptr, key_.get(), nullptr));
  const auto init = purpose == Purpose::kSign ? EVP_PKEY_sign_init : EVP_PKEY_verify_init;
  if (context == nullptr || init(context.get()) != 1 || !SetUpHash(context.get(), algorithm)) {
    return OpensslError("set up a signature");
  }
  prepared = {std::move(context), algorithm};
  return prepared.context.get();
}

Result<std::string> AsymmetricKey::Sign(JwsAlgorithm algorithm, std::string_view message) const {
  if (type_ == Type::kEd25519) return SignEd25519(message);
  auto digest = Sha256(message);
  if (!digest) return digest.error();
  auto context = Prepare(Purpose::kSign, algorithm);
  if (!context) return context.error();
  std::string signature(static_cast<size_t>(EVP_PKEY_get_size(key_.get())), '\0');
  size_t size = signature.size();
  if (EVP_PKEY_sign(*context, OpensslBytes(signature.data()), &size, digest->data(), digest->size()) != 1) {
    return OpensslError("sign");
  }
  signature.resize(size);
  if (type_ == Type::kP256) {
    std::optional<std::string> raw = RawFromDer(signature);
    if (!raw.has_value()) return OpensslError("read its own signature");
    signature = *std::move(raw);
  }
  ERR_clear_error();
  return signature;
}

Result<bool> AsymmetricKey::Verify(JwsAlgorithm algorithm, std::string_view message, std::string_view signature) const {
  if (type_ == Type::kEd25519) return VerifyEd25519(message, signature);
  const size_t expected =
      type_ == Type::kRsa ? static_cast<size_t>(EVP_PKEY_get_size(key_.get())) : 2 * kEcdsaHalfBytes;
  if (signature.size() != expected) return false;
  auto digest = Sha256(message);
  if (!digest) return digest.error();
  auto context = Prepare(Purpose::kVerify, algorithm);
  if (!context) return context.error();
  std::optional<DerSignature> der;
  if (type_ == Type::kP256) {
    der = DerFromRaw(signature);
    if (!der.has_value()) return OpensslError("encode a signature");
    signature = {der->bytes.data(), der->size};
  }
  return Verdict(
      EVP_PKEY_verify(*context, OpensslBytes(signature.data()), signature.size(), digest->data(), digest->size()));
}

Result<std::string> AsymmetricKey::SignEd25519(std::string_view message) const {
  const DigestContext context(EVP_MD_CTX_new());
  std::string signature(kEd25519SignatureBytes, '\0');
  size_t size = signature.size();
  if (context == nullptr || EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_.get()) != 1 ||
      EVP_DigestSign(context.get(), OpensslBytes(signature.data()), &size, OpensslBytes(message.data()),
                     message.size()) != 1) {
    return OpensslError("sign");
  }
  ERR_clear_error();
  return signature;
}

Result<bool> AsymmetricKey::VerifyEd25519(std::string_view message, std::string_view signature) const {
  if (signature.size() != kEd25519SignatureBytes) return false;
  const DigestContext context(EVP_MD_CTX_new());
  if (context == nullptr || EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key_.get()) != 1) {
    return OpensslError("set up a signature");
  }
  return Verdict(EVP_DigestVerify(context.get(), OpensslBytes(signature.data()), signature.size(),
                                  OpensslBytes(message.data()), message.size()));
}

// A private key whose public half is another's would sign what nobody can check.
Status AsymmetricKey::CheckPair() const {
  constexpr std::string_view kProbe = "probe";
  const JwsAlgorithm algorithm = type_ == Type::kRsa    ? JwsAlgorithm::kRs256
                                 : type_ == Type::kP256 ? JwsAlgorithm::kEs256
                                                        : JwsAlgorithm::kEdDsa;
  auto signature = Sign(algorithm, kProbe);
  if (!signature) return signature.error();
  auto fits = Verify(algorithm, kProbe, *signature);
  if (!fits) return fits.error();
  if (!*fits) return Error{ErrorCode::kInvalidArgument, "the halves of this private key do not belong together", {}};
  return Ok();
}

}  // namespace token_refresh
