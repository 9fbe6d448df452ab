#include "pg/attach_plan.h"

#include <new>

#include "core/secret_json.h"
#include "core/table_options.h"
#include "pg/boundary.h"
#include "pg/interval_options.h"

namespace token_refresh {

namespace {

// The options as C++ hands them over: palloc'd, without an error raised. Null: not given.
struct RawPlan {
  char *provider, *label, *filter, *cipher, *key, *time_zone;
  char *decrypt_schema, *decrypt_name, *encrypt_schema, *encrypt_name;
  char *columns, *status_values, *result_values;  // JSON
  char* problems;                                 // one a line
  bool trigger, has_poll_interval, has_refresh_margin;
  Micros poll_interval, refresh_margin;
};

char* CopyOutOrNull(std::string_view text) { return text.empty() ? nullptr : CopyOut(text); }

template <class Map>
char* CopyOutMap(const Map& map) {
  nlohmann::json object = nlohmann::json::object();
  for (const auto& [key, value] : map) object[std::string(key)] = value;
  return CopyOut(object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void CopyCipher(const TableOptions& options, RawPlan* raw) {
  if (!options.cipher) return;
  raw->cipher = CopyOut(TableCipherWord(*options.cipher));
  raw->key = CopyOutOrNull(options.key);
  if (*options.cipher != TableCipher::kFunctions) return;
  raw->decrypt_schema = CopyOutOrNull(options.decrypt.schema);
  raw->decrypt_name = CopyOutOrNull(options.decrypt.name);
  raw->encrypt_schema = CopyOutOrNull(options.encrypt.schema);
  raw->encrypt_name = CopyOutOrNull(options.encrypt.name);
}

void CopyOptions(const TableOptions& options, RawPlan* raw) {
  raw->provider = CopyOutOrNull(options.provider);
  raw->label = CopyOutOrNull(options.label);
  raw->filter = CopyOutOrNull(options.filter);
  raw->time_zone = CopyOut(options.time_zone);
  CopyCipher(options, raw);
  raw->columns = CopyOutMap(options.columns);
  if (!options.status_values.empty()) raw->status_values = CopyOutMap(options.status_values);
  raw->result_values = CopyOutMap(std::map<std::string, std::string>{{"success", options.result_values.success},
                                                                     {"failure", options.result_values.failure}});
  raw->trigger = options.trigger;
  raw->has_poll_interval = options.poll_interval.has_value();
  raw->poll_interval = options.poll_interval.value_or(0);
  raw->has_refresh_margin = options.refresh_margin.has_value();
  raw->refresh_margin = options.refresh_margin.value_or(0);
}

Status Parse(const char* json, RawPlan* raw) {
  TableOptions options;
  std::string problems;
  for (const OptionProblem& problem : ParseTableOptions(json, options)) problems += problem.problem + "\n";
  raw->problems = CopyOut(problems);
  CopyOptions(options, raw);
  return Ok();
}

Interval* ToInterval(Micros micros) {
  Interval* interval = static_cast<Interval*>(palloc0(sizeof(Interval)));
  interval->time = micros;
  return interval;
}

Jsonb* ToJsonb(const char* json) {
  return json == nullptr ? nullptr : DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}

}  // namespace

void InitProblems(Problems* problems) {
  problems->count = 0;
  initStringInfo(&problems->lines);
}

void AddProblem(Problems* problems, const char* format, ...) {
  if (problems->count++ > 0) appendStringInfoChar(&problems->lines, '\n');
  for (;;) {
    va_list arguments;
    va_start(arguments, format);
    int needed = appendStringInfoVA(&problems->lines, format, arguments);
    va_end(arguments);
    if (needed == 0) return;
    enlargeStringInfo(&problems->lines, needed);
  }
}

void RaiseProblems(const Problems& problems, Oid relation) {
  if (problems.count == 0) return;
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                  errmsg_plural("table \"%s\" cannot be attached: %d problem", "table \"%s\" cannot be attached: %d problems",
                                problems.count, get_rel_name(relation), problems.count),
                  errdetail_internal("%s", problems.lines.data), errhint("Nothing was changed.")));
}

void ReadAttachOptions(Jsonb* options, AttachPlan* plan, Problems* problems) {
  Jsonb* converted = ConvertIntervalOptions(options, TableOptionSpecs());
  const char* json = JsonbToCString(nullptr, &converted->root, VARSIZE(converted));
  RawPlan raw = {};
  RunCpp([&] { return Parse(json, &raw); });
  for (char* line = strtok(raw.problems, "\n"); line != nullptr; line = strtok(nullptr, "\n"))
    AddProblem(problems, "%s", line);
  *plan = {};
  plan->provider = raw.provider;
  plan->label = raw.label;
  plan->filter = raw.filter;
  plan->cipher = raw.cipher;
  plan->cipher_key = raw.key;
  plan->decrypt = {raw.decrypt_schema, raw.decrypt_name};
  plan->encrypt = {raw.encrypt_schema, raw.encrypt_name};
  plan->time_zone = raw.time_zone;
  plan->columns = ToJsonb(raw.columns);
  plan->status_values = ToJsonb(raw.status_values);
  plan->result_values = ToJsonb(raw.result_values);
  plan->trigger = raw.trigger;
  if (raw.has_poll_interval) plan->poll_interval = ToInterval(raw.poll_interval);
  if (raw.has_refresh_margin) plan->refresh_margin = ToInterval(raw.refresh_margin);
}

const char* ColumnOf(const AttachPlan& plan, const char* word) {
  JsonbValue buffer;
  JsonbValue* name = getKeyJsonValueFromContainer(&plan.columns->root, word, strlen(word), &buffer);
  return name == nullptr ? nullptr : pnstrdup(name->val.string.val, name->val.string.len);
}

}  // namespace token_refresh
