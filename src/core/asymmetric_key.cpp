#include "core/asymmetric_key.h"

#include <openssl/core_names.h>
#include <openssl/pem.h>

#include <array>
#include <utility>

#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr int kMinModulusBits = 2048;                         // RFC 7518 section 3.3
constexpr int kMaxModulusBits = 8192;                         // what checking a signature may cost
constexpr size_t kMaxModulusBytes = kMaxModulusBits / 8 + 1;  // some write a zero byte in front
constexpr size_t kMaxExponentBytes = 8;
constexpr size_t kCoordinateBytes = 32;
constexpr size_t kEd25519Bytes = 32;
constexpr size_t kMaxPemBytes = 64 * 1024;
constexpr char kP256Name[] = "prime256v1";
constexpr char kUncompressedPoint = 4;

Error InvalidKey(const char* why) {
  ERR_clear_error();
  return Error{ErrorCode::kInvalidArgument, why, {}};
}

// Why OpenSSL did not take a key: this, unless the key is not to blame.
Error NotTaken(const char* why) { return OpensslRanOutOfMemory() ? OpensslError("read a key") : InvalidKey(why); }

Result<Pkey> PublicKeyFromData(const char* type, OSSL_PARAM* params, const char* refusal) {
  PkeyContext context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  if (context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1) return OpensslError("set up a key");
  EVP_PKEY* key = nullptr;
  if (EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params) != 1) return NotTaken(refusal);
  return Pkey(key);
}

BigNumber NumberFrom(std::string_view bytes) {
  return BigNumber(BN_bin2bn(OpensslBytes(bytes.data()), static_cast<int>(bytes.size()), nullptr));
}

std::string Quoted(std::string_view name, std::string_view value) {
  std::string member("\"");
  member.append(name).append("\":\"").append(value).append("\"");
  return member;
}

// A number of the key in base64url, of width bytes or, when that is 0, of as few as it takes; nothing when
// OpenSSL cannot say.
std::optional<std::string> KeyNumber(const EVP_PKEY* key, const char* name, size_t width = 0) {
  BIGNUM* found = nullptr;
  if (EVP_PKEY_get_bn_param(key, name, &found) != 1) return std::nullopt;
  const BigNumber number(found);
  std::string bytes(width > 0 ? width : static_cast<size_t>(BN_num_bytes(number.get())), '\0');
  if (BN_bn2binpad(number.get(), OpensslBytes(bytes.data()), static_cast<int>(bytes.size())) < 0) return std::nullopt;
  return Base64UrlEncode(bytes);
}

std::optional<std::string> RsaJwk(const EVP_PKEY* key) {
  const auto exponent = KeyNumber(key, OSSL_PKEY_PARAM_RSA_E);
  const auto modulus = KeyNumber(key, OSSL_PKEY_PARAM_RSA_N);
  if (!exponent || !modulus) return std::nullopt;
  return "{" + Quoted("e", *exponent) + "," + Quoted("kty", "RSA") + "," + Quoted("n", *modulus) + "}";
}

std::optional<std::string> P256Jwk(const EVP_PKEY* key) {
  const auto x = KeyNumber(key, OSSL_PKEY_PARAM_EC_PUB_X, kCoordinateBytes);
  const auto y = KeyNumber(key, OSSL_PKEY_PARAM_EC_PUB_Y, kCoordinateBytes);
  if (!x || !y) return std::nullopt;
  return "{" + Quoted("crv", "P-256") + "," + Quoted("kty", "EC") + "," + Quoted("x", *x) + "," + Quoted("y", *y) + "}";
}

std::optional<std::string> Ed25519Jwk(const EVP_PKEY* key) {
  std::array<unsigned char, kEd25519Bytes> bytes;
  size_t size = bytes.size();
  if (EVP_PKEY_get_raw_public_key(key, bytes.data(), &size) != 1 || size != bytes.size()) return std::nullopt;
  return "{" + Quoted("crv", "Ed25519") + "," + Quoted("kty", "OKP") + "," +
         Quoted("x", Base64UrlEncode(BytesOf(bytes))) + "}";
}

std::optional<std::string> PublicJwk(AsymmetricKey::Type type, const EVP_PKEY* key) {
  switch (type) {
    case AsymmetricKey::Type::kRsa:
      return RsaJwk(key);
    case AsymmetricKey::Type::kP256:
      return P256Jwk(key);
    case AsymmetricKey::Type::kEd25519:
      return Ed25519Jwk(key);
  }
  return std::nullopt;
}

Status CheckRsa(const EVP_PKEY* key) {
  const int bits = EVP_PKEY_get_bits(key);
  if (bits < kMinModulusBits) return InvalidKey("an RSA key needs 2048 bits or more");
  if (bits > kMaxModulusBits) return InvalidKey("an RSA key may have 8192 bits at most");
  BIGNUM* found = nullptr;
  if (EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &found) != 1) return OpensslError("read an RSA key");
  const BigNumber exponent(found);
  if (BN_is_odd(exponent.get()) != 1 || BN_is_one(exponent.get()) == 1 ||
      BN_num_bytes(exponent.get()) > static_cast<int>(kMaxExponentBytes)) {
    return InvalidKey("the exponent of an RSA key is odd, greater than 1 and not longer than 8 bytes");
  }
  return Ok();
}

bool IsOnP256(const EVP_PKEY* key) {
  std::array<char, 64> name{};
  return EVP_PKEY_get_group_name(key, name.data(), name.size(), nullptr) == 1 &&
         std::string_view(name.data()) == kP256Name;
}

std::optional<AsymmetricKey::Type> FindType(const EVP_PKEY* key) {
  if (EVP_PKEY_is_a(key, "RSA") == 1) return AsymmetricKey::Type::kRsa;
  if (EVP_PKEY_is_a(key, "ED25519") == 1) return AsymmetricKey::Type::kEd25519;
  if (EVP_PKEY_is_a(key, "EC") == 1 && IsOnP256(key)) return AsymmetricKey::Type::kP256;
  return std::nullopt;
}

// In place of OpenSSL's own, which would ask at the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

}  // namespace

Result<AsymmetricKey> AsymmetricKey::Own(Type type, Pkey key) {
  std::optional<std::string> jwk = PublicJwk(type, key.get());
  if (!jwk.has_value()) return OpensslError("read a public key");
  // Decoders that were tried in vain have left their complaints.
  ERR_clear_error();
  return AsymmetricKey(type, std::move(key), *std::move(jwk));
}

Result<AsymmetricKey> AsymmetricKey::FromRsa(std::string_view modulus, std::string_view exponent) {
  if (modulus.size() > kMaxModulusBytes) return InvalidKey("an RSA key may have 8192 bits at most");
  if (exponent.size() > kMaxExponentBytes) return InvalidKey("the exponent of an RSA key is longer than 8 bytes");
  const BigNumber n = NumberFrom(modulus);
  const BigNumber e = NumberFrom(exponent);
  const ParamBuilder builder(OSSL_PARAM_BLD_new());
  if (n == nullptr || e == nullptr || builder == nullptr ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) != 1) {
    return OpensslError("set up an RSA key");
  }
  const Params params(OSSL_PARAM_BLD_to_param(builder.get()));
  if (params == nullptr) return OpensslError("set up an RSA key");
  auto key = PublicKeyFromData("RSA", params.get(), "this is no RSA key");
  if (!key) return key.error();
  if (Status fine = CheckRsa(key->get()); !fine) return fine.error();
  return Own(Type::kRsa, std::move(*key));
}

Result<AsymmetricKey> AsymmetricKey::FromP256(std::string_view x, std::string_view y) {
  if (x.size() != kCoordinateBytes || y.size() != kCoordinateBytes) {
    return InvalidKey("a coordinate of a point on P-256 has 32 bytes");
  }
  std::string point(1, kUncompressedPoint);
  point.append(x).append(y);
  std::string group(kP256Name);
  OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group.data(), 0),
                         OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()),
                         OSSL_PARAM_construct_end()};
  auto key = PublicKeyFromData("EC", params, "the point of this key is not on P-256");
  if (!key) return key.error();
  return Own(Type::kP256, std::move(*key));
}

Result<AsymmetricKey> AsymmetricKey::FromEd25519(std::string_view x) {
  if (x.size() != kEd25519Bytes) return InvalidKey("a public key of Ed25519 has 32 bytes");
  Pkey key(EVP_PKEY_new_raw_public_key_ex(nullptr, "ED25519", nullptr, OpensslBytes(x.data()), x.size()));
  if (key == nullptr) return NotTaken("this is no key of Ed25519");
  return Own(Type::kEd25519, std::move(key));
}

Result<AsymmetricKey> AsymmetricKey::FromPrivatePem(std::string_view pem) {
  if (pem.size() > kMaxPemBytes) return InvalidKey("a private key in PEM is not longer than 64 KiB");
  const Bio source(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  if (source == nullptr) return OpensslError("read a private key");
  Pkey pkey(PEM_read_bio_PrivateKey_ex(source.get(), nullptr, NoPassphrase, nullptr, nullptr, nullptr));
  if (pkey == nullptr) {
    Error error = NotTaken("this is no private key in PEM, or it is encrypted");
    error.hint = "Make one with: openssl genpkey -algorithm ed25519";
    return error;
  }
  const std::optional<Type> type = FindType(pkey.get());
  if (!type.has_value()) return InvalidKey("a private key that signs tokens is RSA, EC on P-256, or Ed25519");
  if (*type == Type::kRsa) {
    if (Status fine = CheckRsa(pkey.get()); !fine) return fine.error();
  }
  auto key = Own(*type, std::move(pkey));
  if (!key) return key;
  if (Status fine = key->CheckPair(); !fine) return fine.error();
  return key;
}

Result<std::string> AsymmetricKey::Thumbprint() const {
  auto digest = Sha256(public_jwk_);
  if (!digest) return digest.error();
  return Base64UrlEncode(BytesOf(*digest));
}

}  // namespace token_refresh
