// SQL function seal_token: what an application writes into a table that is attached with the
// cipher "native". The refresher and get_access_token_from open it; nobody else can.
#include "core/sealed_box.h"
#include "pg/arguments.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/keys.h"
#include "pg/read_attached.h"

extern "C" {
PG_FUNCTION_INFO_V1(token_refresh_seal_token);
}

namespace token_refresh {

namespace {

constexpr const char* kArguments[] = {"table_name", "row_key", "column_name", "token"};

// The word that the ciphertext is bound to.
const char* WordOfColumn(const TokenTable& table, const char* column) {
  for (TokenColumn word : {kColumnAccessToken, kColumnRefreshToken})
    if (strcmp(table.columns[word].name, column) == 0) return word == kColumnAccessToken ? "access_token" : "refresh_token";
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                  errmsg("column \"%s\" of table %s holds no token", column, table.quoted_name)));
  pg_unreachable();
}

// Whoever may write the column may seal for it.
void RequireWriter(const TokenTable& table, const char* column) {
  AttrNumber number = get_attnum(table.relation, column);
  if (pg_class_aclcheck(table.relation, GetUserId(), ACL_INSERT | ACL_UPDATE) == ACLCHECK_OK) return;
  if (pg_attribute_aclcheck(table.relation, number, GetUserId(), ACL_INSERT | ACL_UPDATE) == ACLCHECK_OK) return;
  ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for table %s", table.quoted_name),
                  errhint("Sealing a token for a column takes the privilege to write it.")));
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_seal_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  for (int i = 0; i < static_cast<int>(lengthof(kArguments)); i++) RequireArgument(fcinfo, i, kArguments[i]);
  const TokenTable* table = RequireAttached(PG_GETARG_OID(0));
  if (table->cipher != TableCipher::kNative)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("table %s is not attached with the cipher \"native\"", table->quoted_name)));
  const char* column = text_to_cstring(PG_GETARG_TEXT_PP(2));
  const char* word = WordOfColumn(*table, column);
  RequireWriter(*table, column);
  const char* key = CanonicalKey(*table, PG_GETARG_TEXT_PP(1));
  text* token = PG_GETARG_TEXT_PP(3);
  const std::string_view secret = View(token);
  bytea* sealed = AllocateBytes(SealedSize(secret.size()));
  RunCpp([&]() -> Status {
    token_refresh::Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    return SealInto(**ring, SealedPlace{table->place, key, word}, secret, VARDATA(sealed));
  });
  PG_RETURN_BYTEA_P(sealed);
}
