#include "core/sealed_box.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr size_t kNonceAt = 1 + kKeyIdBytes;
constexpr size_t kNonceSize = 24;

std::string KeyLine(const std::string& name, char fill) {
  return name + " " + Base64Encode(std::string(kKeyBytes, fill)) + "\n";
}

KeyRing Ring(const std::string& text) {
  auto ring = KeyRing::Parse(text);
  EXPECT_TRUE(ring);
  return std::move(ring).value();
}

const SealedPlace kPlace = {"token_refresh.credential", "42", "refresh_token"};

std::string Sealed(const KeyRing& ring, const SealedPlace& place, std::string_view plaintext) {
  auto envelope = Seal(ring, place, plaintext);
  EXPECT_TRUE(envelope);
  return envelope ? *envelope : std::string();
}

std::string NonceOf(const std::string& envelope) { return envelope.substr(kNonceAt, kNonceSize); }

// Opens into memory full of a pattern, and on failure expects all of it wiped.
ErrorCode OpenFails(const KeyRing& ring, const SealedPlace& place, const std::string& envelope) {
  auto size = OpenedSize(envelope);
  std::string out(size ? *size : 0, 'p');
  const Status opened = OpenInto(ring, place, envelope, out.data());
  EXPECT_FALSE(opened);
  EXPECT_EQ(out, std::string(out.size(), '\0'));
  EXPECT_FALSE(Open(ring, place, envelope));
  return opened ? ErrorCode::kInternal : opened.error().code;
}

TEST(SealedBox, WhatIsSealedOpens) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  for (const size_t size : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{200}, size_t{1} << 20}) {
    std::string plaintext(size, '\0');
    for (size_t i = 0; i < size; ++i) plaintext[i] = static_cast<char>(i * 7 + i / 256);
    const std::string envelope = Sealed(ring, kPlace, plaintext);
    ASSERT_EQ(envelope.size(), SealedSize(size));
    ASSERT_TRUE(OpenedSize(envelope));
    EXPECT_EQ(*OpenedSize(envelope), size);
    auto opened = Open(ring, kPlace, envelope);
    ASSERT_TRUE(opened);
    EXPECT_TRUE(opened->Equals(plaintext));
    if (size >= 16) {
      EXPECT_EQ(envelope.find(plaintext), std::string::npos);
    }
  }
}

TEST(SealedBox, EmptyPlacesAreAPlaceToo) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const std::string envelope = Sealed(ring, {}, "fake");
  ASSERT_TRUE(Open(ring, {}, envelope));
  EXPECT_EQ(OpenFails(ring, kPlace, envelope), ErrorCode::kNotAuthentic);
}

TEST(SealedBox, TheEnvelopeIsTheGrammar) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const SealingKey& key = ring.primary();
  const std::string envelope = Sealed(ring, {"t", "row", "c"}, "fake");
  EXPECT_EQ(envelope[0], 1);
  EXPECT_EQ(envelope.substr(1, kKeyIdBytes), BytesOf(key.id));
  // Rebuilt by hand from the published AEAD.
  using namespace std::string_literals;
  const std::string additional_data = envelope.substr(0, kNonceAt) + "\0\0\0\1t\0\0\0\3row\0\0\0\1c"s;
  std::string expected(4 + 16, '\0');
  ASSERT_TRUE(XaesSeal(key, NonceOf(envelope), additional_data, "fake", expected.data()));
  EXPECT_EQ(envelope.substr(kNonceAt + kNonceSize), expected);
}

TEST(SealedBox, AChangeOfAnyBitIsNoticed) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const std::string envelope = Sealed(ring, kPlace, "fake refresh token");
  for (size_t at = 0; at < envelope.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = envelope;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      const bool in_key_id = at >= 1 && at < kNonceAt;
      ASSERT_EQ(OpenFails(ring, kPlace, changed), in_key_id ? ErrorCode::kKeyMissing : ErrorCode::kNotAuthentic)
          << "byte " << at;
    }
  }
  EXPECT_TRUE(Open(ring, kPlace, envelope));
}

TEST(SealedBox, AChangedKeyIdDoesNotOpenWithThatOtherKey) {
  const KeyRing ring = Ring(KeyLine("main", 1) + KeyLine("other", 2));
  std::string envelope = Sealed(ring, kPlace, "fake");
  const KeyId& other = ring.keys()[1].id;
  std::copy(other.begin(), other.end(), envelope.begin() + 1);
  EXPECT_EQ(OpenFails(ring, kPlace, envelope), ErrorCode::kNotAuthentic);
}

TEST(SealedBox, ItOpensInItsOwnPlaceOnly) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const std::string envelope = Sealed(ring, kPlace, "fake");
  for (const SealedPlace& place : {SealedPlace{"token_refresh.provider", "42", "refresh_token"},
                                   SealedPlace{"token_refresh.credential", "43", "refresh_token"},
                                   SealedPlace{"token_refresh.credential", "42", "access_token"},
                                   SealedPlace{"token_refresh.credential", "", "refresh_token"},
                                   SealedPlace{"42", "token_refresh.credential", "refresh_token"}}) {
    EXPECT_EQ(OpenFails(ring, place, envelope), ErrorCode::kNotAuthentic);
  }
  EXPECT_TRUE(Open(ring, kPlace, envelope));
}

TEST(SealedBox, PartsOfThePlaceDoNotRunTogether) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const std::string envelope = Sealed(ring, {"ab", "c", "d"}, "fake");
  for (const SealedPlace& place : {SealedPlace{"a", "bc", "d"}, SealedPlace{"ab", "cd", ""},
                                   SealedPlace{"", "abc", "d"}, SealedPlace{"abcd", "", ""}}) {
    EXPECT_EQ(OpenFails(ring, place, envelope), ErrorCode::kNotAuthentic);
  }
}

TEST(SealedBox, APlaceIsBounded) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const std::string row(1024 * 1024, 'r');
  const std::string envelope = Sealed(ring, {"t", row, "c"}, "fake");
  EXPECT_TRUE(Open(ring, {"t", row, "c"}, envelope));
  const std::string longer = row + "r";
  auto sealed = Seal(ring, {"t", longer, "c"}, "fake");
  ASSERT_FALSE(sealed);
  EXPECT_EQ(sealed.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(OpenFails(ring, {"t", longer, "c"}, envelope), ErrorCode::kInvalidArgument);
}

TEST(SealedBox, TruncatedOrLengthenedDoesNotOpen) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const std::string envelope = Sealed(ring, kPlace, "fake");
  for (size_t size = 0; size < envelope.size(); ++size) {
    ASSERT_EQ(OpenFails(ring, kPlace, envelope.substr(0, size)), ErrorCode::kNotAuthentic) << size;
    ASSERT_EQ(OpenedSize(envelope.substr(0, size)).ok(), size >= kEnvelopeOverhead);
    ASSERT_EQ(EnvelopeKeyId(envelope.substr(0, size)).ok(), size >= kEnvelopeOverhead);
  }
  EXPECT_EQ(OpenFails(ring, kPlace, envelope + "x"), ErrorCode::kNotAuthentic);
  EXPECT_EQ(OpenFails(ring, kPlace, envelope.substr(1)), ErrorCode::kNotAuthentic);
}

TEST(SealedBox, AnUnknownVersionIsNamed) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  std::string envelope = Sealed(ring, kPlace, "fake");
  envelope[0] = '\xfe';
  const auto opened = Open(ring, kPlace, envelope);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kNotAuthentic);
  EXPECT_NE(opened.error().message.find("version 254"), std::string::npos) << opened.error().message;
  EXPECT_EQ(EnvelopeKeyId(envelope).error().code, ErrorCode::kNotAuthentic);
}

TEST(SealedBox, AMissingKeyIsNamedByItsId) {
  const KeyRing old_ring = Ring(KeyLine("old", 1));
  const KeyRing new_ring = Ring(KeyLine("new", 2));
  const std::string envelope = Sealed(old_ring, kPlace, "fake");
  EXPECT_EQ(OpenFails(new_ring, kPlace, envelope), ErrorCode::kKeyMissing);
  const auto opened = Open(new_ring, kPlace, envelope);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message.find(KeyIdHex(old_ring.primary().id)), std::string::npos);
  EXPECT_FALSE(opened.error().hint.empty());
}

TEST(SealedBox, NotAuthenticNamesTableAndColumnButNotTheRow) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  const std::string envelope = Sealed(ring, kPlace, "fake");
  const auto opened = Open(ring, {"public.accounts", "person@example.test", "token"}, envelope);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message.find("public.accounts.token"), std::string::npos);
  EXPECT_EQ((opened.error().message + opened.error().hint).find("person"), std::string::npos);
}

TEST(SealedBox, AnEmptyRingSealsNothing) {
  const auto sealed = Seal(KeyRing(), kPlace, "fake");
  ASSERT_FALSE(sealed);
  EXPECT_EQ(sealed.error().code, ErrorCode::kKeyMissing);
}

TEST(SealedBox, RotationSealsWithTheFirstKeyAndOpensWithAll) {
  const KeyRing before = Ring(KeyLine("old", 1));
  const KeyRing after = Ring(KeyLine("new", 2) + KeyLine("old", 1));
  const std::string old_envelope = Sealed(before, kPlace, "fake-1");
  const std::string new_envelope = Sealed(after, kPlace, "fake-2");
  EXPECT_EQ(*EnvelopeKeyId(old_envelope), before.primary().id);
  EXPECT_EQ(*EnvelopeKeyId(new_envelope), after.primary().id);
  for (int round = 0; round < 3; ++round) {  // in turn, so that a context kept for one key must not serve the other
    auto first = Open(after, kPlace, old_envelope);
    auto second = Open(after, kPlace, new_envelope);
    ASSERT_TRUE(first && second);
    EXPECT_EQ(first->view(), "fake-1");
    EXPECT_EQ(second->view(), "fake-2");
  }
}

TEST(SealedBox, LargerThanTheLimitIsRefused) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  std::string plaintext(kMaxSecretBytes, 'x');
  std::string envelope = Sealed(ring, kPlace, plaintext);
  EXPECT_TRUE(Open(ring, kPlace, envelope));
  plaintext += 'x';
  const auto sealed = Seal(ring, kPlace, plaintext);
  ASSERT_FALSE(sealed);
  EXPECT_EQ(sealed.error().code, ErrorCode::kInvalidArgument);
  envelope += 'x';
  EXPECT_EQ(OpenedSize(envelope).error().code, ErrorCode::kNotAuthentic);
  EXPECT_EQ(OpenFails(ring, kPlace, envelope), ErrorCode::kNotAuthentic);
}

TEST(SealedBox, NoNonceComesTwice) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  constexpr size_t kSeals = 10000;
  std::set<std::string> nonces;
  for (size_t i = 0; i < kSeals; ++i) nonces.insert(NonceOf(Sealed(ring, kPlace, "")));
  EXPECT_EQ(nonces.size(), kSeals);
}

// The nonces of a few seals in a forked child.
std::vector<std::string> NoncesOfChild(const KeyRing& ring, int count) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  EXPECT_GE(child, 0);
  if (child == 0) {
    bool ok = true;
    for (int i = 0; i < count; ++i) {
      const std::string nonce = NonceOf(Sealed(ring, kPlace, ""));
      ok = ok && write(ends[1], nonce.data(), nonce.size()) == static_cast<ssize_t>(nonce.size());
    }
    _exit(ok ? 0 : 1);
  }
  close(ends[1]);
  std::vector<std::string> nonces;
  std::string nonce(kNonceSize, '\0');
  while (read(ends[0], nonce.data(), nonce.size()) == static_cast<ssize_t>(nonce.size())) nonces.push_back(nonce);
  close(ends[0]);
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  return nonces;
}

TEST(SealedBox, AForkedChildDrawsItsOwnNonces) {
  const KeyRing ring = Ring(KeyLine("main", 1));
  constexpr int kSeals = 5;
  std::set<std::string> nonces = {NonceOf(Sealed(ring, kPlace, ""))};  // the pool is filled before the fork
  for (int child = 0; child < 2; ++child) {
    for (const std::string& nonce : NoncesOfChild(ring, kSeals)) nonces.insert(nonce);
  }
  for (int i = 0; i < kSeals; ++i) nonces.insert(NonceOf(Sealed(ring, kPlace, "")));
  EXPECT_EQ(nonces.size(), 1u + 3 * kSeals);
}

}  // namespace
}  // namespace token_refresh
