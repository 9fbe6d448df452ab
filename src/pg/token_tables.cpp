#include "pg/token_tables.h"

#include "pg/catalog.h"
#include "pg/provider_cache.h"
#include "pg/statements.h"
#include "pg/table_description.h"
#include "pg/table_watch.h"

extern "C" {
#include "storage/lmgr.h"
}

namespace token_refresh {

const char* const kStatusWords[kTokenStatuses] = {"connected", "token_expired", "needs_reauth", "error",
                                                  "disconnected"};

namespace {

Statement hold_table = {
    "SELECT FROM token_refresh.token_table WHERE id = $1 FOR KEY SHARE SKIP LOCKED", 1, {INT4OID}, nullptr};

TokenTable* tables = nullptr;
uint64_t changes = 0;
// Nobody knows yet what the description that is being made depends on.
bool loading = false;

uint64_t CurrentVersion() { return ProviderCacheVersion() + changes; }

// Runs whenever a table is altered; allocates nothing.
void RelationChanged(Datum, Oid relation) {
  bool concerns = loading;
  for (const TokenTable* table = tables; table != nullptr && !concerns; table = table->next)
    concerns = relation == InvalidOid || relation == table->relation;
  if (concerns) changes++;
}

void NameChanged(Datum, int cache, uint32 hash) {
  bool concerns = loading;
  for (const TokenTable* table = tables; table != nullptr && !concerns; table = table->next)
    concerns = IsWatched(*table->watched, cache, hash);
  if (concerns) changes++;
}

// Null when there is none.
TokenTable* Load(int32_t id) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(id)};
  // Also what this very statement has attached.
  const char* sql = psprintf("SELECT %s FROM token_refresh.token_table WHERE id = $1", kDescriptionColumns);
  if (SPI_execute_with_args(sql, 1, types, values, nullptr, false, 1) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading token_table failed");
  if (SPI_processed == 0) return nullptr;
  MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "token_refresh token table", ALLOCSET_SMALL_SIZES);
  MemoryContext previous = MemoryContextSwitchTo(context);
  TokenTable* table = static_cast<TokenTable*>(palloc0(sizeof(TokenTable)));
  table->context = context;
  table->id = id;
  table->version = CurrentVersion();
  table->watched = NewWatched();
  loading = true;
  DescribeTable(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, table);
  loading = false;
  MemoryContextSwitchTo(previous);
  MemoryContextSetParent(context, CacheMemoryContext);
  return table;
}

void FreePlans(void* statements) { ReleaseStatements(static_cast<TokenTableStatements*>(statements)); }

// The old description may be in use further up the stack: it goes with the transaction.
void Discard(TokenTable* table) {
  if (table->statements != nullptr) {
    MemoryContextCallback* callback =
        static_cast<MemoryContextCallback*>(MemoryContextAllocZero(table->context, sizeof(MemoryContextCallback)));
    callback->func = FreePlans;
    callback->arg = table->statements;
    MemoryContextRegisterResetCallback(table->context, callback);
  }
  MemoryContextSetParent(table->context, TopTransactionContext);
}

TokenTable** Position(int32_t id) {
  TokenTable** position = &tables;
  while (*position != nullptr && (*position)->id != id) position = &(*position)->next;
  return position;
}

}  // namespace

TokenTable* FindTokenTable(int32_t id) {
  static bool registered = false;
  if (!registered) {
    CacheRegisterRelcacheCallback(RelationChanged, 0);
    CallWhenNamesChange(NameChanged);
    registered = true;
  }
  AcceptInvalidationMessages();
  TokenTable* known = *Position(id);
  if (known != nullptr && !known->locked && known->version == CurrentVersion()) return known;
  TokenTable* fresh = Load(id);
  TokenTable** position = Position(id);
  TokenTable* old = *position;
  TokenTable* next = old != nullptr ? old->next : nullptr;
  if (fresh != nullptr) fresh->next = next;
  *position = fresh != nullptr ? fresh : next;
  if (old != nullptr) Discard(old);
  return fresh;
}

TokenTable* GetTokenTable(int32_t id) {
  TokenTable* table = FindTokenTable(id);
  if (table == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("token table %d is not attached", id)));
  return table;
}

bool HoldTokenTable(int32_t id) {
  // Nobody can detach that.
  if (id == kBuiltInTokenTable) return true;
  Datum values[] = {Int32GetDatum(id)};
  return Execute(&hold_table, values, false) > 0;
}

void LockTokenTable(const TokenTable& table) {
  LockRelationOid(table.relation, AccessShareLock);
  HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table.relation));
  if (!HeapTupleIsValid(tuple))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("the table does not exist any more")));
  const Form_pg_class form = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
  const char* schema = get_namespace_name(form->relnamespace);
  const bool same_name = schema != nullptr && table.schema != nullptr && strcmp(schema, table.schema) == 0 &&
                         strcmp(NameStr(form->relname), table.name) == 0;
  const bool same_owner = form->relowner == table.owner && !table.owner_changed;
  ReleaseSysCache(tuple);
  if (!same_owner)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("table %s has another owner now: its new owner must detach and attach it", table.quoted_name)));
  // Whoever has the description knows by the next time.
  if (!same_name)
    ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("table %s has just been renamed", table.quoted_name)));
}

const TokenTable* KnownTokenTable(int32_t id) { return *Position(id); }

const TokenTable* CurrentTokenTable(int32_t id) {
  const TokenTable* known = KnownTokenTable(id);
  return known != nullptr && known->version == CurrentVersion() ? known : nullptr;
}

int32_t TokenTableOf(Oid relation) {
  Oid types[] = {REGCLASSOID};
  Datum values[] = {ObjectIdGetDatum(relation)};
  if (SPI_execute_with_args("SELECT id FROM token_refresh.token_table WHERE relation = $1", 1, types, values, nullptr,
                            true, 1) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading token_table failed");
  if (SPI_processed == 0) return 0;
  bool is_null;
  return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

TokenStatus StatusOf(const TokenTable& table, const char* text) {
  for (int i = 0; text != nullptr && i < kTokenStatuses; i++)
    if (table.status_values[i] != nullptr && strcmp(table.status_values[i], text) == 0)
      return static_cast<TokenStatus>(i);
  return kConnected;
}

}  // namespace token_refresh
