// Tokens for a credential that was disconnected while its refresh was under way: the provider is told of them as well.
#include "pg/save_arrays.h"

namespace token_refresh {

namespace {

Statement revoke_given = {
    "SELECT token_refresh._revoke_given(k.id, k.refresh_token, k.access_token)"
    " FROM unnest($1, $2, $3) AS k(id, refresh_token, access_token)",
    3,
    {INT8ARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID},
    nullptr};

}  // namespace

void RevokeGiven(const SaveWork& work, std::span<const SealedTokens> sealed) {
  if (sealed.empty()) return;
  Picked rows = PickAll(work);
  CommitToDisk();
  Datum values[] = {ScheduleIds(work, rows),
                    BytesOrNull(rows, [&](int i) { return std::string_view(sealed[i].refresh_token); }),
                    BytesOrNull(rows, [&](int i) { return std::string_view(sealed[i].access_token); })};
  Execute(&revoke_given, values, false);
}

}  // namespace token_refresh
