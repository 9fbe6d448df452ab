#include "pg/attach_checks.h"

#include "pg/catalog.h"
#include "pg/provider_cache.h"

extern "C" {
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "nodes/parsenodes.h"
#include "pgtime.h"
}

namespace token_refresh {

namespace {

enum class Use { kToken, kTime, kWord, kText, kAny };

struct ColumnRule {
  const char* word;
  const char* option;
  Use use;
  bool written;
};

constexpr ColumnRule kRules[] = {{"provider", "provider_column", Use::kAny, false},
                                 {"subject", "subject_column", Use::kAny, false},
                                 {"label", "label_column", Use::kAny, false},
                                 {"access_token", "access_token_column", Use::kToken, true},
                                 {"refresh_token", "refresh_token_column", Use::kToken, true},
                                 {"expires_at", "expires_at_column", Use::kTime, true},
                                 {"scope", "scope_column", Use::kText, true},
                                 {"status", "status_column", Use::kWord, true},
                                 {"last_error", "error_column", Use::kText, true},
                                 {"result", "result_column", Use::kWord, true},
                                 {"refreshed_at", "refreshed_at_column", Use::kTime, true},
                                 {"updated_at", "updated_at_column", Use::kTime, true}};

bool IsText(Oid type) {
  Oid base = getBaseType(type);
  return base == TEXTOID || base == VARCHAROID;
}

bool IsTime(Oid type) {
  switch (getBaseType(type)) {
    case TIMESTAMPTZOID:
    case TIMESTAMPOID:
    case INT4OID:
    case INT8OID:
    case NUMERICOID:
    case FLOAT8OID:
      return true;
    default:
      return false;
  }
}

// What a column of type must be for this use; null: it is.
const char* Misfit(Use use, Oid type) {
  switch (use) {
    case Use::kToken:
      return IsText(type) || getBaseType(type) == BYTEAOID ? nullptr : "text, varchar or bytea";
    case Use::kTime:
      return IsTime(type) ? nullptr : "timestamptz, timestamp, or a number of seconds since 1970";
    case Use::kWord:
      return IsText(type) || get_typtype(getBaseType(type)) == TYPTYPE_ENUM ? nullptr : "text, varchar or an enum";
    case Use::kText:
      return IsText(type) ? nullptr : "text or varchar";
    case Use::kAny:
      return nullptr;
  }
  return nullptr;
}

void CheckColumn(Oid relation, const ColumnRule& rule, const char* name, Problems* problems) {
  AttrNumber number = get_attnum(relation, name);
  if (number <= 0) {
    AddProblem(problems, "option \"%s\": column \"%s\" does not exist", rule.option, name);
    return;
  }
  Oid type = get_atttype(relation, number);
  const char* wanted = Misfit(rule.use, type);
  if (wanted != nullptr)
    AddProblem(problems, "option \"%s\": column \"%s\" is of type %s; it must be %s", rule.option, name,
               format_type_be(type), wanted);
  if (rule.written && get_attgenerated(relation, number) != '\0')
    AddProblem(problems, "option \"%s\": column \"%s\" is generated and cannot be written", rule.option, name);
}

// What a refresh writes does not identify a row; and nobody is to see a token as a key.
bool IsWritten(const AttachPlan& plan, const char* column) {
  for (const ColumnRule& rule : kRules) {
    const char* name = rule.written ? ColumnOf(plan, rule.word) : nullptr;
    if (name != nullptr && strcmp(name, column) == 0) return true;
  }
  return false;
}

bool IsKey(const AttachPlan& plan, Relation relation, Relation index) {
  Form_pg_index form = index->rd_index;
  if (!form->indisunique || !form->indimmediate || !form->indisvalid) return false;
  if (RelationGetIndexExpressions(index) != NIL || RelationGetIndexPredicate(index) != NIL) return false;
  for (int i = 0; i < form->indnkeyatts; i++) {
    AttrNumber number = form->indkey.values[i];
    if (number <= 0) return false;
    const Form_pg_attribute column = TupleDescAttr(RelationGetDescr(relation), number - 1);
    if (!column->attnotnull || IsWritten(plan, NameStr(column->attname))) return false;
  }
  return true;
}

ArrayType* IndexColumns(Relation relation, Relation index) {
  int count = index->rd_index->indnkeyatts;
  Datum* names = static_cast<Datum*>(palloc(sizeof(Datum) * count));
  for (int i = 0; i < count; i++) {
    AttrNumber number = index->rd_index->indkey.values[i];
    names[i] = CStringGetTextDatum(NameStr(TupleDescAttr(RelationGetDescr(relation), number - 1)->attname));
  }
  return construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT);
}

// The columns of the primary key, else of a unique index on columns that are never null. Null: there is none.
ArrayType* FindKey(Oid relation_id, const AttachPlan& plan) {
  Relation relation = relation_open(relation_id, AccessShareLock);
  ArrayType* key = nullptr;
  ListCell* cell;
  foreach (cell, RelationGetIndexList(relation)) {
    Relation index = index_open(lfirst_oid(cell), AccessShareLock);
    if (IsKey(plan, relation, index) && (key == nullptr || index->rd_index->indisprimary)) key = IndexColumns(relation, index);
    index_close(index, AccessShareLock);
  }
  relation_close(relation, AccessShareLock);
  return key;
}

void CheckProvider(const AttachPlan& plan, Problems* problems) {
  if (plan.provider != nullptr && FindProvider(plan.provider) == nullptr)
    AddProblem(problems, "option \"provider\": there is no provider \"%s\"; create it with"
               " token_refresh.create_provider()", plan.provider);
}

// Times that are written by the name of a time zone must be readable for as long as the table is attached.
void CheckTimeZone(const AttachPlan& plan, Problems* problems) {
  if (plan.time_zone != nullptr && pg_tzset(plan.time_zone) == nullptr)
    AddProblem(problems, "option \"time_zone\": there is no time zone \"%s\"; see pg_timezone_names", plan.time_zone);
}

void RequireKind(Oid relation, const char* name) {
  const char* reason = nullptr;
  switch (get_rel_relkind(relation)) {
    case RELKIND_RELATION:
    case RELKIND_PARTITIONED_TABLE:
      break;
    case RELKIND_VIEW:
    case RELKIND_MATVIEW:
      reason = "A view has no key that could be relied on. Attach the table under it.";
      break;
    case RELKIND_FOREIGN_TABLE:
      reason = "A foreign table has no key here, and no triggers. Attach the table where it lives.";
      break;
    default:
      reason = "It is not a table.";
  }
  if (reason == nullptr && get_rel_relispartition(relation)) reason = "Attach the partitioned table, not a partition.";
  if (reason == nullptr && get_rel_relkind(relation) == RELKIND_RELATION &&
      find_inheritance_children(relation, AccessShareLock) != NIL)
    reason = "Tables inherit from it, which neither its key nor a trigger on it covers. Attach each of them.";
  if (reason == nullptr && get_rel_persistence(relation) == RELPERSISTENCE_TEMP)
    reason = "A temporary table is seen by its own session only.";
  if (reason == nullptr && IsCatalogRelationOid(relation)) reason = "It is a catalog of the system.";
  if (reason == nullptr && get_rel_namespace(relation) == get_namespace_oid(kSchema, false))
    reason = "It belongs to the extension itself.";
  if (reason != nullptr)
    ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" cannot be attached", name),
                    errdetail("%s", reason)));
}

}  // namespace

void RequireOwned(Oid relation) {
  const char* name = get_rel_name(relation);
  if (name == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", relation)));
  if (!OwnsRelation(relation, GetUserId()))
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("must be owner of table %s", name)));
}

void RequireAttachable(Oid relation) {
  RequireOwned(relation);
  RequireKind(relation, get_rel_name(relation));
}

void CheckPlan(Oid relation, AttachPlan* plan, Problems* problems) {
  for (const ColumnRule& rule : kRules) {
    const char* name = ColumnOf(*plan, rule.word);
    if (name != nullptr) CheckColumn(relation, rule, name, problems);
  }
  CheckTokenTypes(relation, *plan, problems);
  CheckWords(relation, *plan, problems);
  plan->key_columns = FindKey(relation, *plan);
  if (plan->key_columns == nullptr)
    AddProblem(problems, "the table has neither a primary key nor a unique index on columns that are NOT NULL and that a"
               " refresh does not write");
  CheckProvider(*plan, problems);
  CheckTimeZone(*plan, problems);
  CheckKey(*plan, problems);
  CheckFunctions(relation, *plan, problems);
  CheckFilterSyntax(*plan, problems);
}

}  // namespace token_refresh
