#include "pg/provider_cache.h"

#include <string>
#include <string_view>

#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/wakeup.h"

extern "C" {
#include "catalog/pg_collation.h"
#include "utils/fmgroids.h"

PG_FUNCTION_INFO_V1(token_refresh_provider_changed);
}

namespace token_refresh {

namespace {

// Column numbers of provider, as the install script creates them.
enum ProviderColumn { kProviderId = 1, kProviderEffectiveOptions = 8 };

HTAB* known = nullptr;
// The tables whose change ends what is known: provider, token_table, control.
Oid watched[3] = {InvalidOid, InvalidOid, InvalidOid};
uint64_t version = 1;
uint64_t filled_at_version = 0;

void ForgetOnChange(Datum, Oid relation) {
  bool concerns = relation == InvalidOid || watched[0] == InvalidOid;
  for (Oid table : watched) concerns = concerns || table == relation;
  if (concerns) version++;
}

void WatchTables() {
  watched[1] = ExtensionRelation("token_table");
  watched[2] = ExtensionRelation("control");
  watched[0] = ExtensionRelation("provider");
}

void StartAfresh() {
  if (filled_at_version == version) return;
  HTAB* old = known;
  known = nullptr;
  if (old != nullptr) hash_destroy(old);
  HASHCTL control = {};
  control.keysize = NAMEDATALEN;
  control.entrysize = sizeof(KnownProvider);
  control.hcxt = CacheMemoryContext;
  known = hash_create("token_refresh providers", 32, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
  filled_at_version = version;
}

void ParseInto(const char* effective_options, KnownProvider* entry) {
  RunCpp([&]() -> Status {
    // What create_provider accepted is not judged again here: only the timing matters to a session.
    Result<ProviderOptions> options = ParseProviderOptions(effective_options, true);
    if (!options.ok()) return options.error();
    entry->timing = options->timing;
    entry->enabled = options->enabled;
    entry->has_dialect =
        options->answer != AnswerDialect() || options->request.refresh_with != RefreshWith::kRefreshToken;
    return Ok();
  });
}

// Calls read(tuple, desc) for the row of that name.
template <class Read>
bool FetchRow(const char* name, Read read) {
  WatchTables();
  Relation relation = table_open(watched[0], AccessShareLock);
  ScanKeyData key;
  ScanKeyEntryInitialize(&key, 0, 2, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ,
                         CStringGetTextDatum(name));
  SysScanDesc scan =
      systable_beginscan(relation, ExtensionRelation("provider_name_key"), true, GetLatestSnapshot(), 1, &key);
  HeapTuple tuple = systable_getnext(scan);
  bool found = HeapTupleIsValid(tuple);
  if (found) read(tuple, RelationGetDescr(relation));
  systable_endscan(scan);
  table_close(relation, AccessShareLock);
  return found;
}

const char* OptionsIn(HeapTuple tuple, TupleDesc desc) {
  bool is_null;
  Jsonb* document = DatumGetJsonbP(heap_getattr(tuple, kProviderEffectiveOptions, desc, &is_null));
  return JsonbToCString(nullptr, &document->root, VARSIZE(document));
}

bool Load(const char* name, KnownProvider* entry) {
  return FetchRow(name, [entry](HeapTuple tuple, TupleDesc desc) {
    bool is_null;
    entry->id = DatumGetInt32(heap_getattr(tuple, kProviderId, desc, &is_null));
    ParseInto(OptionsIn(tuple, desc), entry);
  });
}

}  // namespace

const char* FetchProviderOptions(const char* name) {
  const char* options = nullptr;
  FetchRow(name, [&options](HeapTuple tuple, TupleDesc desc) { options = OptionsIn(tuple, desc); });
  return options;
}

void InstallProviderCache() { CacheRegisterRelcacheCallback(ForgetOnChange, 0); }

const KnownProvider* FindProvider(const char* name) {
  if (strlen(name) >= NAMEDATALEN) return nullptr;
  AcceptInvalidationMessages();
  StartAfresh();
  bool found;
  KnownProvider* entry = static_cast<KnownProvider*>(hash_search(known, name, HASH_FIND, &found));
  if (found) return entry;

  KnownProvider loaded = {};
  strlcpy(loaded.name, name, NAMEDATALEN);
  if (!Load(name, &loaded)) return nullptr;
  StartAfresh();
  entry = static_cast<KnownProvider*>(hash_search(known, name, HASH_ENTER, &found));
  *entry = loaded;
  return entry;
}

void ForgetProviders() { version++; }

uint64_t ProviderCacheVersion() {
  if (IsTransactionState() && watched[0] == InvalidOid) WatchTables();
  return version;
}

bool ProvidersChangedSince(uint64_t version) {
  AcceptInvalidationMessages();
  return ProviderCacheVersion() != version;
}

}  // namespace token_refresh

extern "C" Datum token_refresh_provider_changed(PG_FUNCTION_ARGS) {
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "token_refresh: not called as a trigger");
  TriggerData* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  CacheInvalidateRelcache(trigger->tg_relation);
  token_refresh::WakeRefresherAtCommit(GetCurrentTimestamp());
  return PointerGetDatum(nullptr);
}
