// The SQL on one token table, made from its description. The forms are plain joins with
// unnest and updates with the compare-and-set in their WHERE; no row is locked for reading. They use the
// table's own index on its key, and also work on tables that are distributed. Results are palloc'd.
#pragma once

#include "pg/token_tables.h"

namespace token_refresh {

// An owner may fill a column with anything: of what is there for people to read no more is read.
constexpr int kMostCharacters = 1000;

// bytea for bytea[], text for text[].
inline Oid ElementOf(Oid array) { return array == BYTEAARRAYOID ? BYTEAOID : TEXTOID; }

// The type of the arrays that hold tokens as they are stored.
Oid StoredArrayType(const TokenTable& table);
// The type of the arrays that hold new tokens: as they are stored, or plain for an encrypt function.
Oid NewTokenArrayType(const TokenTable& table);

// (n int4[], key text[], with access token bool[]) -> n, subject, label, refresh token as stored, the refresh token as
// the decrypt function opens it (null for other ciphers), whether the filter holds, status, whether the token is too
// long to be read, captured fields, access token as stored and as opened, client_id, client_secret as stored,
// refresh_expires_at
char* LoadSql(const TokenTable& table);

// (n int4[], key text[], old[], access[], refresh[], token_type text[], scope text[], issued_at timestamptz[],
//  expires_at timestamptz[], refresh_expires_at timestamptz[]) -> n of the rows written. refresh null: it stays
char* SaveSql(const TokenTable& table);

// (n int4[], key text[], old[], refresh[], refresh_expires_at timestamptz[], status text[], last_error text[]) -> n of
// the rows that still hold old and that the application has not disconnected. What is null stays; a new refresh
// token is written all the same.
char* MarkSql(const TokenTable& table);

// (n int4[], key text[], old[], expires_at timestamptz[]) -> n of the rows that still hold old
char* LearnSql(const TokenTable& table);

// (cursor text), none for the first batch -> key, provider, subject, label, has refresh token, status, issued_at,
// expires_at, refresh_expires_at, whether the filter holds; at most limit rows in the order of the key
char* ScanSql(const TokenTable& table, bool has_cursor, int limit);

// The same of one row. (key text)
char* ScanRowSql(const TokenTable& table);
// (cursor text), none for the first batch -> the keys alone, which need nothing of the owner's but the key's own type
char* ScanKeysSql(const TokenTable& table, bool has_cursor, int limit);

// (n int4[], key text[]) -> n of those that exist
char* ExistingSql(const TokenTable& table);

// (n int4[], key text[]) -> n, refresh token, access token, as stored
char* StoredSql(const TokenTable& table);

// (key text) -> key in its canonical form, provider, subject (null unless functions open the token), access token as
// stored, status, issued_at, expires_at; for the reader, with the reader's rights, so it reads no other columns
char* ReadSql(const TokenTable& table);

// For rotate_keys, on tables with the cipher native. (cursor text), none for the first batch -> key, access token,
// refresh token, as stored; at most limit rows in the order of the key
char* SealedSql(const TokenTable& table, bool has_cursor, int limit);

// (key text[], old_access bytea[], old_refresh bytea[], access bytea[], refresh bytea[]); writes rows that still hold old
char* ResealSql(const TokenTable& table);

}  // namespace token_refresh
