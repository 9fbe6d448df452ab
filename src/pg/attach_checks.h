// What attach_table asks the catalogs, and the table itself, before it serves a table. May raise
// for what is wrong with PostgreSQL; what is wrong with the table becomes a problem.
#pragma once

#include "pg/attach_plan.h"

namespace token_refresh {

// Raises at once when relation is gone, or someone else's.
void RequireOwned(Oid relation);

// Raises at once when relation is nothing that can be attached: someone else's, a view, a temporary table,
// a table of this extension or of the system, or one that is attached already.
void RequireAttachable(Oid relation);

// Everything that the catalogs can tell; fills key_columns.
void CheckPlan(Oid relation, AttachPlan* plan, Problems* problems);

// Whether the columns of status, result and error can hold what is to be written there. Part of CheckPlan.
void CheckWords(Oid relation, const AttachPlan& plan, Problems* problems);

// What the option "cipher" asks for: of the columns, of the key in the key ring, of functions. Parts of CheckPlan.
void CheckTokenTypes(Oid relation, const AttachPlan& plan, Problems* problems);
void CheckKey(const AttachPlan& plan, Problems* problems);
void CheckFunctions(Oid relation, const AttachPlan& plan, Problems* problems);

// Whether the filter is one expression and nothing else.
void CheckFilterSyntax(const AttachPlan& plan, Problems* problems);

// What can be told only by trying, in the owner's name: the filter, and whether the cipher opens what is
// stored. The table is attached already, in this transaction.
void TryTable(int32_t token_table, Problems* problems);

}  // namespace token_refresh
