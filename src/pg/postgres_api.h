// The one door to PostgreSQL's headers, and the place where differences between
// its versions are kept. Include it last: standard library, core, then this.
#pragma once

extern "C" {
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/pmsignal.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"
}

#include "core/clock.h"

namespace token_refresh {

// PostgreSQL counts microseconds from 2000-01-01, the core from 1970-01-01.
constexpr int64_t kPostgresEpoch =
    static_cast<int64_t>(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * USECS_PER_SEC;
// Infinity lies at the ends of the range; -infinity so that a margin may be taken from it.
constexpr Micros FromTimestamp(TimestampTz t) {
  if (t < MIN_TIMESTAMP) return MIN_TIMESTAMP + kPostgresEpoch;
  return t > PG_INT64_MAX - kPostgresEpoch ? PG_INT64_MAX : t + kPostgresEpoch;
}
constexpr TimestampTz ToTimestamp(Micros t) {
  if (t == PG_INT64_MAX) return DT_NOEND;
  return t < PG_INT64_MIN + kPostgresEpoch ? DT_NOBEGIN : t - kPostgresEpoch;
}

// An interval as microseconds, a month having 30 days; what is beyond the range stops at its ends.
inline Micros FromInterval(const Interval* interval) {
  const int64_t days = interval->day + static_cast<int64_t>(interval->month) * 30;
  Micros micros;
  if (!__builtin_mul_overflow(days, kDay, &micros) && !__builtin_add_overflow(micros, interval->time, &micros))
    return micros;
  return days > 0 || (days == 0 && interval->time > 0) ? PG_INT64_MAX : PG_INT64_MIN;
}

#if PG_VERSION_NUM >= 160000
inline bool OwnsRelation(Oid relation, Oid role) { return object_ownercheck(RelationRelationId, relation, role); }
inline bool MayExecute(Oid function, Oid role) {
  return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK;
}
#else
inline bool OwnsRelation(Oid relation, Oid role) { return pg_class_ownercheck(relation, role); }
inline bool MayExecute(Oid function, Oid role) { return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK; }
#endif

// The index of this process in ProcGlobal->allProcs.
inline int MyProcIndex() {
#if PG_VERSION_NUM >= 170000
  return MyProcNumber;
#else
  return MyProc->pgprocno;
#endif
}

inline bool OwnsDatabase(Oid database, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_ownercheck(DatabaseRelationId, database, role);
#else
  return pg_database_ownercheck(database, role);
#endif
}

inline WaitEventSet* MakeWaitEventSet(MemoryContext context, int events) {
#if PG_VERSION_NUM >= 170000
  return CreateWaitEventSet(nullptr, events);
#else
  return CreateWaitEventSet(context, events);
#endif
}

inline IndexScanDesc BeginIndexScan(Relation table, Relation index, Snapshot snapshot, int key_count) {
#if PG_VERSION_NUM >= 180000
  return index_beginscan(table, index, snapshot, nullptr, key_count, 0);
#else
  return index_beginscan(table, index, snapshot, key_count, 0);
#endif
}

}  // namespace token_refresh
