// The settings token_refresh.*, as PostgreSQL keeps them. Read by anyone in
// src/pg; written by PostgreSQL only. Units are in the names.
#pragma once

namespace token_refresh {

struct Settings {
  static char* databases;
  static bool enabled;
  static char* key_file;
  static char* key_command;
  static int max_in_flight;
  static int request_slots;
  static int request_timeout_ms;
  static int drain_timeout_ms;
  static int sweep_interval_s;
  static int poll_interval_s;
  static int refresh_margin_s;
  static int connect_timeout_ms;
  static int http_timeout_ms;
  static char* ca_file;
  static bool allow_insecure_http;
  static int audit_retention_min;
  static int api_token_grace_s;
  static int api_token_retention_min;
  static int api_token_use_interval_s;
  static int api_token_use_slots;
  static char* jwt_issuer;
  static char* jwt_audience;
  static int jwt_lifetime_s;
  static int jwt_leeway_s;
  static int session_idle_timeout_s;
  static int session_max_lifetime_s;
  static int session_refresh_grace_s;
  static int session_retention_min;
};

// preloading: also those that can be set at server start only.
void DefineSettings(bool preloading);

}  // namespace token_refresh
