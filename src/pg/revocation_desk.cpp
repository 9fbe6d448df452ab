#include "pg/revocation_desk.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/client_secret_parts.h"
#include "core/credential_client.h"
#include "core/renewal_token.h"
#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/catalog.h"
#include "pg/failure_log.h"
#include "pg/keys.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

constexpr const char* kActivity = "token_refresh: revocations";
constexpr size_t kMaxUnderWay = 64;
constexpr size_t kMaxPerProvider = 8;
// What is due, and was not taken, is locked, or its provider has no room: that shows by itself.
constexpr Micros kPauseWhenHeld = 5 * kSecond;
// A provider that does not answer is told again after 2, 4, 8 ... s, at last once an hour.
constexpr Micros kFirstPause = 2 * kSecond;
constexpr Micros kLongestPause = kHour;
constexpr int kMostDoublings = 12;
// Longer than any request may take: what is under way is not taken up again meanwhile.
constexpr int kLeaseSeconds = 1800;
// When the database cannot be asked.
constexpr Micros kTroublePause = 10 * kSecond;

Statement take_revocations = {
    "SELECT t.id, t.provider, t.token, t.sealed_table, t.sealed_row, t.token_type_hint, t.attempts,"
    " t.client_id, t.client_secret, t.client_row"
    " FROM token_refresh._take_revocations($1, $2, $3, make_interval(secs => $4)) t",
    4,
    {INT4OID, INT4OID, TEXTARRAYOID, INT4OID},
    nullptr};
Statement next_revocation = {
    "SELECT min(n.due_at) FROM token_refresh.provider p,"
    " LATERAL (SELECT r.due_at FROM token_refresh.revocation r WHERE r.provider = p.name ORDER BY r.due_at LIMIT 1) n",
    0,
    {},
    nullptr};
Statement settle_revocation = {
    "SELECT token_refresh._settle_revocation($1, $2, $3, make_interval(secs => $4))",
    4,
    {INT8OID, TEXTOID, TEXTOID, FLOAT8OID},
    nullptr};

// A row of revocation in plain memory.
struct PlainRevocation {
  int64_t id;
  char *provider, *sealed_table, *sealed_row, *hint;
  bytea* token;
  int attempts;
  char* client_id;               // null: the provider's client is meant
  char* client_row;              // null: its secret is sealed for the place of the token
  bytea* client_secret;          // null: none
};

void ReadRevocation(HeapTuple tuple, TupleDesc desc, PlainRevocation* row) {
  bool is_null;
  const auto get = [&](int column) { return TextDatumGetCString(SPI_getbinval(tuple, desc, column, &is_null)); };
  row->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
  row->provider = get(2);
  row->token = DatumGetByteaPCopy(SPI_getbinval(tuple, desc, 3, &is_null));
  row->sealed_table = get(4);
  row->sealed_row = get(5);
  row->hint = get(6);
  row->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 7, &is_null));
  if (SPI_getbinval(tuple, desc, 8, &is_null); is_null) return;
  row->client_id = get(8);
  if (SPI_getbinval(tuple, desc, 10, &is_null); !is_null) row->client_row = get(10);
  Datum client_secret = SPI_getbinval(tuple, desc, 9, &is_null);
  row->client_secret = is_null ? nullptr : DatumGetByteaPCopy(client_secret);
}

Datum BusyProviders(const char* const* providers, size_t count) {
  return MakeArray(static_cast<int>(count), TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(providers[i]); });
}

const char* OutcomeWord(RevocationOutcome outcome) {
  switch (outcome) {
    case RevocationOutcome::kDone:
      return "done";
    case RevocationOutcome::kRefused:
      return "refused";
    case RevocationOutcome::kNothing:
      return "nothing";
    case RevocationOutcome::kRetry:
      break;
  }
  return "retry";
}

double PauseSeconds(const RevocationVerdict& verdict, int attempts) {
  const Micros pause = std::min(kFirstPause << std::clamp(attempts - 1, 0, kMostDoublings), kLongestPause);
  const Micros wanted = std::max(pause, verdict.retry_after.value_or(0));
  return static_cast<double>(std::min(wanted, kLongestPause)) / static_cast<double>(kSecond);
}

RevocationVerdict CannotAsk(RevocationOutcome outcome, std::string message) {
  RevocationVerdict verdict;
  verdict.outcome = outcome;
  verdict.message = std::move(message);
  return verdict;
}

}  // namespace

RevocationDesk::RevocationDesk(PgStore& store, HttpTransport& transport, const Clock& clock)
    : store_(store),
      clock_(clock),
      calls_(transport, kMaxUnderWay),
      context_(AllocSetContextCreate(TopMemoryContext, "token_refresh revocations", ALLOCSET_DEFAULT_SIZES)) {}

void RevocationDesk::Serve(Micros now) {
  if (MayTake() && (now >= look_at_ || store_.revocations_queued()))
    for (const Revocation& revocation : TakeDue(now)) Begin(revocation);
  calls_.Turn();
  for (const Verdict& verdict : std::exchange(verdicts_, {})) Settle(verdict);
}

// Those that are under way make room when they end, and look again.
bool RevocationDesk::MayTake() const { return !draining_ && under_way_.size() < kMaxUnderWay; }

std::vector<RevocationDesk::Revocation> RevocationDesk::TakeDue(Micros now) {
  std::vector<Revocation> revocations;
  PlainRevocation rows[kMaxUnderWay] = {};
  uint64 count = 0;
  bool none = true;
  TimestampTz next = 0;
  MemoryContextReset(context_);
  const char* busy[kMaxUnderWay];
  size_t busy_count = 0;
  for (const auto& [id, provider] : under_way_) busy[busy_count++] = provider.c_str();
  auto error = RunPostgres(kActivity, [&] {
    Datum values[] = {Int32GetDatum(static_cast<int32>(kMaxUnderWay - busy_count)),
                      Int32GetDatum(static_cast<int32>(kMaxPerProvider)), BusyProviders(busy, busy_count),
                      Int32GetDatum(kLeaseSeconds)};
    const uint64 found = Execute(&take_revocations, values, false);
    MemoryContext previous = MemoryContextSwitchTo(context_);
    for (; count < Min(found, kMaxUnderWay); count++)
      ReadRevocation(SPI_tuptable->vals[count], SPI_tuptable->tupdesc, &rows[count]);
    MemoryContextSwitchTo(previous);
    Execute(&next_revocation, nullptr, false);
    next = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &none));
  });
  if (error) LogFailure("looking for revocations", *error);
  store_.LookedAtRevocations();
  const Micros next_at = none ? INT64_MAX : FromTimestamp(next);
  look_at_ = error ? now + kTroublePause : next_at <= now ? now + kPauseWhenHeld : next_at;
  for (uint64 i = 0; !error && i < count; i++) {
    const PlainRevocation& row = rows[i];
    revocations.push_back({row.id, row.provider, row.sealed_table, row.sealed_row, row.hint,
                           std::string(View(row.token)), row.attempts});
    if (row.client_id == nullptr) continue;
    revocations.back().client_id = row.client_id;
    if (row.client_row != nullptr) revocations.back().client_row = row.client_row;
    revocations.back().client_envelope = View(row.client_secret);
  }
  return revocations;
}

void RevocationDesk::Begin(const Revocation& revocation) {
  under_way_[revocation.id] = revocation.provider;
  std::shared_ptr<const Provider> provider = store_.FindProviderByName(revocation.provider);
  Result<const KeyRing*> ring = LoadKeyRing();
  const auto end = [this, &revocation](RevocationVerdict verdict) {
    verdicts_.push_back({revocation.id, std::move(verdict), revocation.attempts});
  };
  if (provider == nullptr || !ring.ok())
    return end(CannotAsk(RevocationOutcome::kRetry, "the provider or the key ring cannot be used; see the server log"));
  if (provider->options.revocation_endpoint.empty())
    return end(CannotAsk(RevocationOutcome::kRefused, "the provider has no revocation_endpoint any more"));
  const SealedPlace place = {revocation.sealed_table, revocation.sealed_row, revocation.hint};
  Result<Secret> token = Open(**ring, place, revocation.envelope);
  Result<Secret> client_secret = Secret();
  if (!revocation.client_envelope.empty()) {
    SealedPlace of_client = {revocation.sealed_table, revocation.sealed_row, "client_secret"};
    if (!revocation.client_row.empty()) of_client = {kCredentialPlace, revocation.client_row, "client_secret"};
    client_secret = Open(**ring, of_client, revocation.client_envelope);
  }
  for (const Result<Secret>* opened : {&token, &client_secret}) {
    if (opened->ok()) continue;
    const bool hopeless = opened->error().code == ErrorCode::kNotAuthentic;
    return end(CannotAsk(hopeless ? RevocationOutcome::kRefused : RevocationOutcome::kRetry, opened->error().message));
  }
  provider = ProviderForClient(provider, revocation.client_id, *client_secret);

  if (IsRenewalMark(*token)) return end(CannotAsk(RevocationOutcome::kNothing, ""));

  // std::function wants what can be copied.
  Ask({revocation.id, revocation.attempts, revocation.hint, provider, std::make_shared<Secret>(std::move(*token))},
      false);
}

// In an overlap of two client secrets with the one, and, if the client is refused, with the other.
void RevocationDesk::Ask(const Question& question, bool previous_secret) {
  Result<HttpRequest> request = BuildRevocationRequest(*question.provider, *question.token, question.hint,
                                                       clock_.Now(), defaults_, previous_secret);
  if (!request.ok()) {
    verdicts_.push_back(
        {question.id, CannotAsk(RevocationOutcome::kRetry, request.error().message), question.attempts});
    return;
  }
  calls_.Call(*std::move(request),
              [this, question, previous_secret](const HttpResponse& response) {
                const Provider& asked = *question.provider;
                std::vector<std::string_view> secrets = {question.token->view()};
                AddClientSecrets(asked, secrets);
                RevocationVerdict verdict = ReadRevocationAnswer(asked, response, secrets, clock_.Now());
                if (verdict.other_secret && !previous_secret) return Ask(question, true);
                verdicts_.push_back({question.id, std::move(verdict), question.attempts});
              });
}

// What cannot be noted is taken up again when its lease is over.
void RevocationDesk::Settle(const Verdict& verdict) {
  under_way_.erase(verdict.id);
  auto error = RunPostgres(kActivity, [&] {
    Datum values[] = {Int64GetDatum(verdict.id), CStringGetTextDatum(OutcomeWord(verdict.verdict.outcome)),
                      MessageDatum(verdict.verdict.message), Float8GetDatum(PauseSeconds(verdict.verdict, verdict.attempts))};
    Execute(&settle_revocation, values, false);
  });
  if (error) LogFailure("noting what has become of a revocation", *error);
  LookAgain();
}

}  // namespace token_refresh
