#include "pg/settings.h"

#include <climits>

#include "pg/keys.h"
#include "pg/postgres_api.h"

namespace token_refresh {

char* Settings::databases = nullptr;
bool Settings::enabled = true;
char* Settings::key_file = nullptr;
char* Settings::key_command = nullptr;
int Settings::max_in_flight = 512;
int Settings::request_slots = 1024;
int Settings::request_timeout_ms = 10000;
int Settings::drain_timeout_ms = 10000;
int Settings::sweep_interval_s = 600;
int Settings::poll_interval_s = 60;
int Settings::refresh_margin_s = 300;
int Settings::connect_timeout_ms = 5000;
int Settings::http_timeout_ms = 30000;
char* Settings::ca_file = nullptr;
bool Settings::allow_insecure_http = false;
int Settings::audit_retention_min = 90 * 24 * 60;
int Settings::api_token_grace_s = 24 * 60 * 60;
int Settings::api_token_retention_min = 90 * 24 * 60;
int Settings::api_token_use_interval_s = 60;
int Settings::api_token_use_slots = 65536;
char* Settings::jwt_issuer = nullptr;
char* Settings::jwt_audience = nullptr;
int Settings::jwt_lifetime_s = 30 * 60;
int Settings::jwt_leeway_s = 10;
int Settings::session_idle_timeout_s = 7 * 86400;
int Settings::session_max_lifetime_s = 90 * 86400;
int Settings::session_refresh_grace_s = 30;
int Settings::session_retention_min = 30 * 24 * 60;

namespace {

bool CheckDatabases(char** value, void**, GucSource) {
  char* copy = pstrdup(*value);
  List* names = NIL;
  bool valid = strcmp(copy, "*") == 0 || SplitIdentifierString(copy, ',', &names);
  if (!valid) GUC_check_errdetail("It must be a comma-separated list of database names, empty, or *.");
  list_free(names);
  return valid;
}

// Names in a JWT, which are compared byte for byte in whatever encoding.
bool CheckJwtName(char** value, void**, GucSource) {
  for (const char* c = *value; *c != '\0'; c++) {
    if (*c > ' ' && *c <= '~') continue;
    GUC_check_errdetail("It must be of printable ASCII characters without spaces.");
    return false;
  }
  return true;
}

void AssignKeySource(const char*, void*) { ForgetKeyRing(); }

void DefineRefresherSettings() {
  DefineCustomStringVariable("token_refresh.databases", "Databases in which a refresher may run.",
                             "Comma-separated; empty means every database that has the extension.",
                             &Settings::databases, "", PGC_SIGHUP, GUC_LIST_INPUT, CheckDatabases, nullptr, nullptr);
  DefineCustomBoolVariable("token_refresh.enabled", "Refreshes credentials in the background.",
                           "When off, only what a session asks for is refreshed.", &Settings::enabled, true, PGC_SIGHUP,
                           0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.max_in_flight", "Requests under way at once, per provider.",
                          "The total is bounded by the file descriptors the refresher may open.",
                          &Settings::max_in_flight, 512, 1, 10000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.drain_timeout", "How long a stopping refresher waits for answers.", nullptr,
                          &Settings::drain_timeout_ms, 10000, 0, 600000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("token_refresh.sweep_interval", "How often the schedule is reconciled with the token tables.",
                          nullptr, &Settings::sweep_interval_s, 600, 10, 86400, PGC_SIGHUP, GUC_UNIT_S, nullptr,
                          nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.poll_interval", "How often tables without a trigger are looked at.", nullptr,
                          &Settings::poll_interval_s, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.refresh_margin", "How long before its expiry a token is refreshed.",
                          "At most a quarter of the token's lifetime; a provider's own refresh_margin goes first.",
                          &Settings::refresh_margin_s, 300, 1, 86400 * 30, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("token_refresh.audit_retention", "How long audit events are kept.",
                          "Whole months are dropped; at most 14 of them are kept.", &Settings::audit_retention_min,
                          90 * 24 * 60, 24 * 60, 14 * 30 * 24 * 60, PGC_SIGHUP, GUC_UNIT_MIN, nullptr, nullptr,
                          nullptr);
}

void DefineHttpSettings() {
  DefineCustomIntVariable("token_refresh.connect_timeout", "How long connecting to a provider may take.", nullptr,
                          &Settings::connect_timeout_ms, 5000, 100, 600000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("token_refresh.http_timeout", "How long a request to a provider may take in all.", nullptr,
                          &Settings::http_timeout_ms, 30000, 100, 600000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr,
                          nullptr);
  DefineCustomStringVariable("token_refresh.ca_file", "Certificates of the authorities that may vouch for providers.",
                             "Empty means those of the system.", &Settings::ca_file, "", PGC_SIGHUP, 0, nullptr,
                             nullptr, nullptr);
  DefineCustomBoolVariable("token_refresh.allow_insecure_http",
                           "Lets providers opt for plain http to hosts other than loopback.", nullptr,
                           &Settings::allow_insecure_http, false, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
}

void DefineApiTokenSettings(bool preloading) {
  DefineCustomIntVariable("token_refresh.api_token_grace", "How long an API token is good beside its successor.",
                          "Within it everybody who presents the old one gets the same successor; presented later, it "
                          "ends them all.",
                          &Settings::api_token_grace_s, 24 * 60 * 60, 1, 86400 * 365, PGC_SIGHUP, GUC_UNIT_S, nullptr,
                          nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.api_token_retention", "How long API tokens that have expired are remembered.",
                          nullptr, &Settings::api_token_retention_min, 90 * 24 * 60, 60, INT_MAX, PGC_SIGHUP,
                          GUC_UNIT_MIN, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.api_token_use_interval",
                          "How often the refresher writes down which API tokens were used.", nullptr,
                          &Settings::api_token_use_interval_s, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr,
                          nullptr);
  if (preloading)
    DefineCustomIntVariable("token_refresh.api_token_use_slots",
                            "API tokens whose use can be noted between two writes.", nullptr,
                            &Settings::api_token_use_slots, 65536, 1024, 16777216, PGC_POSTMASTER, 0, nullptr, nullptr,
                            nullptr);
}

// By superusers for a database or a role as well: each database may be an issuer of its own.
void DefineJwtSettings() {
  DefineCustomStringVariable("token_refresh.jwt_issuer", "Who issues the JWTs of sessions: the claim iss.",
                             "Empty means that they have none, and that none is asked for.", &Settings::jwt_issuer, "",
                             PGC_SUSET, 0, CheckJwtName, nullptr, nullptr);
  DefineCustomStringVariable("token_refresh.jwt_audience", "Whom the JWTs of sessions are for: the claim aud.",
                             "Empty means that they have none, and that those with one are refused.",
                             &Settings::jwt_audience, "", PGC_SUSET, 0, CheckJwtName, nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.jwt_lifetime", "How long the JWT of a session is good.", nullptr,
                          &Settings::jwt_lifetime_s, 30 * 60, 1, 86400 * 365, PGC_SUSET, GUC_UNIT_S, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("token_refresh.jwt_leeway", "How far the clocks of servers may differ.",
                          "By so much longer a JWT is good, unless its session is over.", &Settings::jwt_leeway_s, 10, 0,
                          300, PGC_SUSET, GUC_UNIT_S, nullptr, nullptr, nullptr);
}

void DefineSessionSettings() {
  DefineCustomIntVariable("token_refresh.session_idle_timeout",
                          "How long a session that is refreshed lives on without being refreshed again.", nullptr,
                          &Settings::session_idle_timeout_s, 7 * 86400, 1, 86400 * 3650, PGC_SUSET, GUC_UNIT_S, nullptr,
                          nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.session_max_lifetime",
                          "How long after the sign-in a session ends, however often it is refreshed.", nullptr,
                          &Settings::session_max_lifetime_s, 90 * 86400, 1, 86400 * 3650, PGC_SUSET, GUC_UNIT_S, nullptr,
                          nullptr, nullptr);
  DefineCustomIntVariable("token_refresh.session_refresh_grace",
                          "How long the former refresh token of a session gives the same successor.",
                          "For a client that has not got the answer; presented later, it ends the session.",
                          &Settings::session_refresh_grace_s, 30, 0, 86400, PGC_SUSET, GUC_UNIT_S, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("token_refresh.session_retention", "How long sessions that have expired are remembered.",
                          nullptr, &Settings::session_retention_min, 30 * 24 * 60, 60, INT_MAX, PGC_SIGHUP,
                          GUC_UNIT_MIN, nullptr, nullptr, nullptr);
}

}  // namespace

void DefineSettings(bool preloading) {
  DefineCustomStringVariable("token_refresh.key_file", "File that holds the key ring.",
                             "One key a line: name and 32 bytes in base64; mode 0600.", &Settings::key_file, "",
                             PGC_SIGHUP, GUC_SUPERUSER_ONLY, nullptr, AssignKeySource, nullptr);
  DefineCustomStringVariable("token_refresh.key_command", "Command that prints the key ring.",
                             "Used when token_refresh.key_file is empty; it must end within 10 seconds.", &Settings::key_command, "", PGC_SIGHUP,
                             GUC_SUPERUSER_ONLY, nullptr, AssignKeySource, nullptr);
  DefineCustomIntVariable("token_refresh.request_timeout", "How long a session waits for a refresh.", nullptr,
                          &Settings::request_timeout_ms, 10000, 1, INT_MAX, PGC_USERSET, GUC_UNIT_MS, nullptr, nullptr,
                          nullptr);
  DefineRefresherSettings();
  DefineHttpSettings();
  DefineApiTokenSettings(preloading);
  DefineJwtSettings();
  DefineSessionSettings();
  // The size of shared memory cannot change later.
  if (preloading)
    DefineCustomIntVariable("token_refresh.request_slots", "Credentials that sessions can wait for at the same time.",
                            nullptr, &Settings::request_slots, 1024, 16, 65536, PGC_POSTMASTER, 0, nullptr, nullptr,
                            nullptr);
  MarkGUCPrefixReserved("token_refresh");
}

}  // namespace token_refresh
