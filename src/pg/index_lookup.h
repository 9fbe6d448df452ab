// Reading one row of a table of the extension by a unique index, without SQL, and taking columns out of it. For the
// files that know columns by their numbers (catalog.cpp, api_token_rows.cpp). May raise.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

inline void EqualKey(ScanKey key, AttrNumber column, Oid collation, RegProcedure equal, Datum value) {
  ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid, collation, equal, value);
}

// DROP EXTENSION may have come between looking the name up and getting the lock.
inline Relation OpenTable(Oid table) {
  Relation relation = try_table_open(table, AccessShareLock);
  if (relation == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                    errmsg("the extension token_refresh has been dropped while it was in use")));
  return relation;
}

// What is committed now, whatever the isolation level; GetLatestSnapshot would not be allowed in a parallel query.
inline Snapshot RegisterFreshSnapshot(Oid table) { return RegisterSnapshot(GetCatalogSnapshot(table)); }

// Calls read(slot) for the one row that a unique index finds.
template <class Read>
bool FetchOne(Oid table, Oid index, ScanKey keys, int key_count, Snapshot snapshot, Read read) {
  Relation relation = OpenTable(table);
  Relation index_relation = index_open(index, AccessShareLock);
  IndexScanDesc scan = BeginIndexScan(relation, index_relation, snapshot, key_count);
  index_rescan(scan, keys, key_count, nullptr, 0);
  TupleTableSlot* slot = table_slot_create(relation, nullptr);
  bool found = index_getnext_slot(scan, ForwardScanDirection, slot);
  if (found) read(slot);
  ExecDropSingleTupleTableSlot(slot);
  index_endscan(scan);
  index_close(index_relation, AccessShareLock);
  table_close(relation, AccessShareLock);
  return found;
}

inline Datum GetColumn(TupleTableSlot* slot, int column, bool* is_null) { return slot_getattr(slot, column, is_null); }

// Null stays null; otherwise palloc'd copies.
inline char* CopyText(TupleTableSlot* slot, int column) {
  bool is_null;
  Datum value = GetColumn(slot, column, &is_null);
  return is_null ? nullptr : TextDatumGetCString(value);
}

inline bytea* CopyBytes(TupleTableSlot* slot, int column) {
  bool is_null;
  Datum value = GetColumn(slot, column, &is_null);
  return is_null ? nullptr : DatumGetByteaPCopy(value);
}

inline bool GetTime(TupleTableSlot* slot, int column, TimestampTz* time) {
  bool is_null;
  Datum value = GetColumn(slot, column, &is_null);
  *time = is_null ? 0 : DatumGetTimestampTz(value);
  return !is_null;
}

inline int64_t GetInt64(TupleTableSlot* slot, int column) {
  bool is_null;
  Datum value = GetColumn(slot, column, &is_null);
  return is_null ? 0 : DatumGetInt64(value);
}

inline bool WrittenByThisTransaction(TupleTableSlot* slot) {
  bool is_null;
  Datum xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &is_null);
  return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

}  // namespace token_refresh
