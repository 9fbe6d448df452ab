#include "pg/interval_options.h"

namespace token_refresh {

namespace {

bool IsInterval(std::span<const OptionSpec> specs, const JsonbValue& key) noexcept {
  for (const OptionSpec& spec : specs)
    if (spec.type == OptionType::kInterval &&
        spec.key == std::string_view(key.val.string.val, static_cast<size_t>(key.val.string.len)))
      return true;
  return false;
}

// Raises an error that says what to write.
[[noreturn]] void RefuseInterval(const JsonbValue& key) {
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                  errmsg("option \"%s\" must be an interval", pnstrdup(key.val.string.val, key.val.string.len)),
                  errhint("Write it as text, such as \"5 minutes\".")));
  pg_unreachable();
}

// Null when it is none: PostgreSQL's own error would not name the option.
Interval* ParseInterval(char* text) {
  MemoryContext context = CurrentMemoryContext;
  Interval* volatile interval = nullptr;
  PG_TRY();
  {
    interval = DatumGetIntervalP(
        DirectFunctionCall3(interval_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(context);
    if (ERRCODE_TO_CATEGORY(CopyErrorData()->sqlerrcode) != ERRCODE_DATA_EXCEPTION) PG_RE_THROW();
    FlushErrorState();
  }
  PG_END_TRY();
  return interval;
}

// PostgreSQL interval text becomes microseconds; anything else stays, for the core to judge.
void ConvertInterval(const JsonbValue& key, JsonbValue* value) {
  const Interval* interval = ParseInterval(pnstrdup(value->val.string.val, value->val.string.len));
  if (interval == nullptr) RefuseInterval(key);
  value->type = jbvNumeric;
  value->val.numeric = int64_to_numeric(FromInterval(interval));
}

}  // namespace

Jsonb* ConvertIntervalOptions(Jsonb* options, std::span<const OptionSpec> specs) {
  if (!JB_ROOT_IS_OBJECT(options))
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"options\" must be a JSON object")));
  JsonbIterator* iterator = JsonbIteratorInit(&options->root);
  JsonbParseState* state = nullptr;
  JsonbValue* result = nullptr;
  JsonbValue value = {}, key = {};
  JsonbIteratorToken token;
  bool is_interval = false;
  while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE) {
    if (token == WJB_KEY) {
      key = value;
      is_interval = IsInterval(specs, key);
    } else if (token == WJB_VALUE && is_interval && value.type == jbvString) {
      ConvertInterval(key, &value);
    } else if (token == WJB_VALUE && is_interval && value.type == jbvNumeric) {
      // A bare number would be read as microseconds: nobody means that.
      RefuseInterval(key);
    }
    result = pushJsonbValue(&state, token, token < WJB_BEGIN_ARRAY || token == WJB_VALUE ? &value : nullptr);
  }
  return JsonbValueToJsonb(result);
}

}  // namespace token_refresh
