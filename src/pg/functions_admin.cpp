// SQL functions behind the administration of providers and keys, and what status() needs to
// know of the refresher.
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/client_secret_parts.h"
#include "core/key_ring.h"
#include "core/near_word.h"
#include "core/provider.h"
#include "core/provider_endpoints.h"
#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/catalog.h"
#include "pg/interval_options.h"
#include "pg/keys.h"
#include "pg/provider_board.h"
#include "pg/settings.h"
#include "pg/shared_state.h"
#include "pg/wakeup.h"

extern "C" {
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

PG_FUNCTION_INFO_V1(token_refresh_canonical_options);
PG_FUNCTION_INFO_V1(token_refresh_check_client_secret);
PG_FUNCTION_INFO_V1(token_refresh_check_stored_secret);
PG_FUNCTION_INFO_V1(token_refresh_near_word);
PG_FUNCTION_INFO_V1(token_refresh_seal);
PG_FUNCTION_INFO_V1(token_refresh_reseal);
PG_FUNCTION_INFO_V1(token_refresh_key_ring);
PG_FUNCTION_INFO_V1(token_refresh_refresher_state);
PG_FUNCTION_INFO_V1(token_refresh_provider_states);
PG_FUNCTION_INFO_V1(token_refresh_wake_refresher);
}

namespace token_refresh {

namespace {

SealedPlace PlaceOf(char* table, char* row_key, char* column) { return SealedPlace{table, row_key, column}; }

const char* PhaseName(RefresherPhase phase) {
  switch (phase) {
    case RefresherPhase::kUnknown:
      return "not_started";
    case RefresherPhase::kStarting:
      return "starting";
    case RefresherPhase::kRunning:
      return "running";
    case RefresherPhase::kNotInstalled:
      return "not_installed";
    case RefresherPhase::kExcluded:
      return "excluded";
    case RefresherPhase::kHeld:
      return "held";
  }
  return "unknown";
}

// Leaves out as it is when the first key has sealed the envelope already, or when it does not open: rotate_keys
// goes on with the others, and counts what is left.
Status Reseal(const SealedPlace& place, std::string_view envelope, char* out, bool* changed) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  Result<KeyId> key = EnvelopeKeyId(envelope);
  if (!key.ok() || *key == (*ring)->primary().id) return Ok();
  Result<Secret> secret = Open(**ring, place, envelope);
  if (!secret.ok()) {
    const ErrorCode code = secret.error().code;
    return code == ErrorCode::kKeyMissing || code == ErrorCode::kNotAuthentic ? Ok() : Status(secret.error());
  }
  *changed = true;
  return SealInto(**ring, place, secret->view(), out);
}

Status CheckStoredSecret(const char* options, const SealedPlace& place, std::string_view envelope) {
  Result<ProviderOptions> parsed = ParseProviderOptions(options, Settings::allow_insecure_http);
  if (!parsed.ok()) return parsed.error();
  Result<const KeyRing*> ring = LoadKeyRing();
  Result<Secret> secret = ring.ok() ? Open(**ring, place, envelope) : Result<Secret>(ring.error());
  // What it is nobody can say now. It is not sent either, as long as it does not open.
  if (!secret.ok()) return Ok();
  const Status fits = CheckClientSecret(*parsed, secret->view());
  if (fits.ok()) return Ok();
  return Error{fits.error().code, "the client_secret that is stored does not do: " + fits.error().message,
               "Give the new client_secret in the same call."};
}

// Names and ids of the keys, in plain memory.
struct KeyList {
  int count;
  struct {
    char name[64];
    uint8_t id[kKeyIdBytes];
  } keys[1024];
};

Status ListKeys(KeyList* list) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  for (const SealingKey& key : (*ring)->keys()) {
    if (list->count == static_cast<int>(lengthof(list->keys))) break;
    auto& entry = list->keys[list->count++];
    strlcpy(entry.name, key.name.c_str(), sizeof(entry.name));
    memcpy(entry.id, key.id.data(), kKeyIdBytes);
  }
  return Ok();
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_canonical_options(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  if (PG_ARGISNULL(0) || PG_ARGISNULL(3)) PG_RETURN_NULL();
  bool has_client_id = !PG_ARGISNULL(1) && VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(1)) > 0;
  bool looks_at_client = !PG_ARGISNULL(2);
  bool has_client_secret = looks_at_client && PG_GETARG_BOOL(2);
  Jsonb* converted = ConvertIntervalOptions(PG_GETARG_JSONB_P(3), ProviderOptionSpecs());
  const char* json = JsonbToCString(nullptr, &converted->root, VARSIZE(converted));
  char* endpoints = nullptr;
  RunCpp([&]() -> Status {
    token_refresh::Result<ProviderOptions> parsed = ParseProviderOptions(json, Settings::allow_insecure_http);
    if (!parsed.ok()) return parsed.error();
    endpoints = CopyOut(EndpointsJson(*parsed));
    return looks_at_client ? CheckProviderClient(*parsed, has_client_id, has_client_secret) : Ok();
  });
  // SQL compares the issuer, and audits where secrets go: it has to see the URLs that are asked.
  return DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(converted),
                             DirectFunctionCall1(jsonb_in, CStringGetDatum(endpoints)));
}

extern "C" Datum token_refresh_near_word(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  Datum* words;
  bool* nulls;
  int count;
  deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &words, &nulls, &count);
  text* near = nullptr;
  std::string_view word = View(PG_GETARG_TEXT_PP(0));
  RunCpp([&]() -> Status {
    std::vector<std::string_view> known;
    std::vector<int> places;
    for (int i = 0; i < count; i++) {
      if (nulls[i]) continue;
      known.push_back(View(reinterpret_cast<const varlena*>(DatumGetPointer(words[i]))));
      places.push_back(i);
    }
    const std::optional<std::string_view> found = NearWord(word, known);
    for (size_t i = 0; found.has_value() && i < known.size(); i++) {
      if (known[i].data() == found->data()) near = reinterpret_cast<text*>(DatumGetPointer(words[places[i]]));
    }
    return Ok();
  });
  if (near == nullptr) PG_RETURN_NULL();
  PG_RETURN_TEXT_P(near);
}

extern "C" Datum token_refresh_check_client_secret(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  Jsonb* options = PG_GETARG_JSONB_P(0);
  const char* json = JsonbToCString(nullptr, &options->root, VARSIZE(options));
  text* secret = PG_GETARG_TEXT_PP(1);
  RunCpp([&]() -> Status {
    token_refresh::Result<ProviderOptions> parsed = ParseProviderOptions(json, Settings::allow_insecure_http);
    if (!parsed.ok()) return parsed.error();
    return CheckClientSecret(*parsed, View(secret));
  });
  PG_RETURN_VOID();
}

extern "C" Datum token_refresh_check_stored_secret(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  Jsonb* options = PG_GETARG_JSONB_P(0);
  const char* json = JsonbToCString(nullptr, &options->root, VARSIZE(options));
  char* provider_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
  bytea* sealed = PG_GETARG_BYTEA_PP(2);
  RunCpp([&] {
    return CheckStoredSecret(json, SealedPlace{kProviderPlace, provider_id, "client_secret"}, View(sealed));
  });
  PG_RETURN_VOID();
}

extern "C" Datum token_refresh_seal(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  SealedPlace place = PlaceOf(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
                              text_to_cstring(PG_GETARG_TEXT_PP(2)));
  text* secret = PG_GETARG_TEXT_PP(3);
  bytea* sealed = AllocateBytes(SealedSize(View(secret).size()));
  RunCpp([&]() -> Status {
    token_refresh::Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    return SealInto(**ring, place, View(secret), VARDATA(sealed));
  });
  PG_RETURN_BYTEA_P(sealed);
}

extern "C" Datum token_refresh_reseal(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  SealedPlace place = PlaceOf(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
                              text_to_cstring(PG_GETARG_TEXT_PP(2)));
  bytea* old = PG_GETARG_BYTEA_PP(3);
  // The envelope keeps its length: only key id, nonce and ciphertext change.
  bytea* sealed = AllocateBytes(View(old).size());
  bool changed = false;
  RunCpp([&] { return Reseal(place, View(old), VARDATA(sealed), &changed); });
  if (!changed) PG_RETURN_BYTEA_P(old);
  PG_RETURN_BYTEA_P(sealed);
}

extern "C" Datum token_refresh_key_ring(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  InitMaterializedSRF(fcinfo, 0);
  ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  KeyList* list = static_cast<KeyList*>(palloc0(sizeof(KeyList)));
  RunCpp([&] { return ListKeys(list); });
  for (int i = 0; i < list->count; i++) {
    bytea* id = AllocateBytes(kKeyIdBytes);
    memcpy(VARDATA(id), list->keys[i].id, kKeyIdBytes);
    Datum values[] = {CStringGetTextDatum(list->keys[i].name), PointerGetDatum(id), BoolGetDatum(i == 0)};
    bool nulls[] = {false, false, false};
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
  return 0;
}

extern "C" Datum token_refresh_refresher_state(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "token_refresh: return type must be a row type");
  DatabaseEntry entry = {};
  bool known = SharedStateAvailable() && GetDatabaseEntry(MyDatabaseId, &entry);
  bool running = known && entry.phase == RefresherPhase::kRunning;
  const char* phase = !SharedStateAvailable() ? "not_preloaded" : known ? PhaseName(entry.phase) : "not_started";
  Datum values[] = {CStringGetTextDatum(phase), Int32GetDatum(entry.refresher_pid), Int64GetDatum(entry.requests),
                    Int64GetDatum(entry.refreshed), Int64GetDatum(entry.failed)};
  bool nulls[] = {false, !running, !known, !known, !known};
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

extern "C" Datum token_refresh_provider_states(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  InitMaterializedSRF(fcinfo, 0);
  if (!SharedStateAvailable()) return 0;
  ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  ProviderState* states = static_cast<ProviderState*>(palloc(kMaxProviderEntries * sizeof(ProviderState)));
  const int count = CopyProviderStates(MyDatabaseId, states);
  const Micros now = FromTimestamp(GetCurrentTimestamp());
  for (int i = 0; i < count; i++) {
    const std::optional<HeldBack> held = WhyHeldBack(states[i], now);
    Datum values[] = {Int32GetDatum(states[i].provider_id), Int32GetDatum(states[i].in_flight),
                      held ? CStringGetTextDatum(held->reason) : static_cast<Datum>(0),
                      held ? TimestampTzGetDatum(ToTimestamp(held->until)) : static_cast<Datum>(0)};
    bool nulls[] = {false, false, !held, !held || held->until == 0};
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
  return 0;
}

extern "C" Datum token_refresh_wake_refresher(PG_FUNCTION_ARGS) {
  token_refresh::WakeAllAtCommit();
  PG_RETURN_VOID();
}
