// The part of attach_table that checks what the cipher asks for: columns of a type that it can be stored in, functions
// that the owner may execute, a key that whoever attaches may name.
#include <string>

#include "core/key_ring.h"
#include "pg/attach_checks.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/keys.h"

extern "C" {
#include "catalog/pg_class.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
}

namespace token_refresh {

namespace {

Oid ColumnType(Oid relation, const AttachPlan& plan, const char* word) {
  const char* name = ColumnOf(plan, word);
  AttrNumber number = name == nullptr ? InvalidAttrNumber : get_attnum(relation, name);
  return number > 0 ? getBaseType(get_atttype(relation, number)) : InvalidOid;
}

Oid OwnerOf(Oid relation) {
  HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
  if (!HeapTupleIsValid(tuple)) elog(ERROR, "token_refresh: no relation %u", relation);
  Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
  ReleaseSysCache(tuple);
  return owner;
}

const char* Quoted(const FunctionName& name) { return quote_qualified_identifier(name.schema, name.name); }

void CheckFunction(const char* role, const FunctionName& name, Oid argument, Oid result, Oid owner,
                   Problems* problems) {
  Oid arguments[] = {argument, TEXTOID};
  List* names = list_make2(makeString(pstrdup(name.schema)), makeString(pstrdup(name.name)));
  Oid function = LookupFuncName(names, lengthof(arguments), arguments, true);
  if (!OidIsValid(function)) {
    AddProblem(problems, "option \"cipher\": there is no function %s(%s, text) to %s with", Quoted(name),
               format_type_be(argument), role);
    return;
  }
  if (get_func_rettype(function) != result)
    AddProblem(problems, "option \"cipher\": function %s returns %s; it must return %s", Quoted(name),
               format_type_be(get_func_rettype(function)), format_type_be(result));
  if (!MayExecute(function, owner))
    AddProblem(problems, "option \"cipher\": the owner of the table may not execute function %s", Quoted(name));
}

// The roles that may use an application's key, one a line; null: there is no such key.
char* RolesOfKey(const char* key_name) {
  char* roles = nullptr;
  RunCpp([&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    const ApplicationKey* key = (*ring)->FindApplicationKey(key_name);
    if (key == nullptr) return Ok();
    std::string lines;
    for (const std::string& role : key->roles) lines += role + "\n";
    roles = CopyOut(lines);
    return Ok();
  });
  return roles;
}

}  // namespace

void CheckTokenTypes(Oid relation, const AttachPlan& plan, Problems* problems) {
  Oid access = ColumnType(relation, plan, "access_token"), refresh = ColumnType(relation, plan, "refresh_token");
  if (!OidIsValid(access) || !OidIsValid(refresh) || plan.cipher == nullptr) return;
  const bool bytes = access == BYTEAOID;
  if (bytes != (refresh == BYTEAOID))
    AddProblem(problems, "the columns of the access token and the refresh token must both be bytea, or both text");
  if (strcmp(plan.cipher, "native") == 0 && !bytes)
    AddProblem(problems, "option \"cipher\": \"native\" needs token columns of type bytea");
  if ((strcmp(plan.cipher, "plain") == 0 || strcmp(plan.cipher, "aes-256-gcm-hex") == 0) && bytes)
    AddProblem(problems, "option \"cipher\": \"%s\" needs token columns of type text", plan.cipher);
}

// Whoever may name a key can have things opened with it.
void CheckKey(const AttachPlan& plan, Problems* problems) {
  if (plan.cipher_key == nullptr) return;
  char* roles = RolesOfKey(plan.cipher_key);
  if (roles == nullptr) {
    AddProblem(problems, "option \"key\": the key ring has no key \"%s\" of an application (a name, 64 hex digits and"
               " the roles that may use it)", plan.cipher_key);
    return;
  }
  bool allowed = superuser();
  for (char* role = strtok(roles, "\n"); role != nullptr && !allowed; role = strtok(nullptr, "\n")) {
    Oid id = get_role_oid(role, true);
    allowed = OidIsValid(id) && has_privs_of_role(GetUserId(), id);
  }
  if (!allowed)
    AddProblem(problems, "option \"key\": the key ring does not say that role \"%s\" may use key \"%s\"",
               GetUserNameFromId(GetUserId(), false), plan.cipher_key);
}

void CheckFunctions(Oid relation, const AttachPlan& plan, Problems* problems) {
  Oid stored = ColumnType(relation, plan, "access_token");
  if (plan.decrypt.schema == nullptr || plan.encrypt.schema == nullptr || !OidIsValid(stored)) return;
  if (stored != BYTEAOID) stored = TEXTOID;
  Oid owner = OwnerOf(relation);
  CheckFunction("decrypt", plan.decrypt, stored, TEXTOID, owner, problems);
  CheckFunction("encrypt", plan.encrypt, TEXTOID, stored, owner, problems);
}

}  // namespace token_refresh
