#include "pg/imported_prefixes.h"

#include "pg/catalog.h"
#include "pg/index_lookup.h"

namespace token_refresh {

namespace {

Oid watched = InvalidOid;
uint64 changes = 1;
uint64 loaded_at = 0;  // the number of changes when the list was read
MemoryContext context = nullptr;  // of the list
List* prefixes = NIL;             // of char*

void ForgetOnChange(Datum, Oid relation) {
  if (relation == InvalidOid || relation == watched) changes++;
}

void Watch() {
  static bool watching = false;
  watched = ExtensionRelation("imported_token_prefix");
  if (watching) return;
  CacheRegisterRelcacheCallback(ForgetOnChange, 0);
  watching = true;
}

void Load() {
  Watch();
  if (context == nullptr)
    context = AllocSetContextCreate(CacheMemoryContext, "token_refresh imported prefixes", ALLOCSET_SMALL_SIZES);
  prefixes = NIL;
  MemoryContextReset(context);
  const uint64 changes_before = changes;
  Relation relation = table_open(watched, AccessShareLock);
  Snapshot snapshot = RegisterFreshSnapshot(watched);
  TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
  TupleTableSlot* slot = table_slot_create(relation, nullptr);
  while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
    bool is_null;
    Datum prefix = slot_getattr(slot, 1, &is_null);
    MemoryContext previous = MemoryContextSwitchTo(context);
    prefixes = lappend(prefixes, TextDatumGetCString(prefix));
    MemoryContextSwitchTo(previous);
  }
  ExecDropSingleTupleTableSlot(slot);
  table_endscan(scan);
  UnregisterSnapshot(snapshot);
  table_close(relation, AccessShareLock);
  loaded_at = changes_before;
}

}  // namespace

bool HasImportedPrefix(std::string_view token) {
  AcceptInvalidationMessages();
  if (loaded_at != changes) Load();
  ListCell* cell;
  foreach (cell, prefixes)
    if (token.starts_with(static_cast<const char*>(lfirst(cell)))) return true;
  return false;
}

}  // namespace token_refresh
