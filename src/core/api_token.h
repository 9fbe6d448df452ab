// API tokens that this database issues: how they are made and recognised. Only their hash is stored.
//
//   token    = prefix body
//   prefix   = 0*32( ALPHA / DIGIT / "_" / "-" / "." )  ; for people and secret scanners
//   body     = 48( ALPHA / DIGIT / "-" / "_" )          ; base64url of 36 bytes
//   36 bytes = 32OCTET                                  ; random
//              4OCTET                                   ; the first of SHA-256(domain prefix random)
//
// The last four let what was mistyped or made up be refused without a look-up. They guard nothing else: who does
// not know a token has to guess the 32 bytes. Callable by anyone, one thread at a time.
#pragma once

#include <cstddef>
#include <string_view>

#include "core/encoding.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

constexpr size_t kApiTokenBodyChars = 48;
constexpr size_t kMaxApiTokenPrefix = 32;
constexpr size_t kMaxApiTokenChars = kMaxApiTokenPrefix + kApiTokenBodyChars;
// Of tokens that something else has made, and whose hashes were taken over.
constexpr size_t kMaxForeignTokenChars = 512;

bool IsApiTokenPrefix(std::string_view prefix);

// A new one. Errors: kInvalidArgument for the prefix, kInternal when there is no randomness to be had.
Result<Secret> MakeApiToken(std::string_view prefix);

// Whether it can be one of those: shape and checksum.
Result<bool> IsApiToken(std::string_view token);

// What is stored in its place: SHA-256 of its characters.
inline Result<Sha256Digest> HashApiToken(std::string_view token) { return Sha256(token); }

}  // namespace token_refresh
