// Requests as tests read them, and responses as they make them.
#pragma once

#include <string>
#include <string_view>

#include "core/http.h"

namespace token_refresh {

// The value of a form field whose name and value need no decoding; empty when absent.
inline std::string FormField(const HttpRequest& request, std::string_view name) {
  const std::string body = "&" + std::string(request.body.view());
  const std::string key = "&" + std::string(name) + "=";
  const size_t start = body.find(key);
  if (start == std::string::npos) return {};
  const size_t value = start + key.size();
  return body.substr(value, body.find('&', value) - value);
}

inline HttpResponse MakeResponse(int status, std::string_view body) {
  HttpResponse response;
  response.status = status;
  response.content_type = "application/json";
  response.body = Secret(body);
  response.duration = 20 * kMillisecond;
  return response;
}

inline HttpResponse MakeTransportFailure(TransportFailure failure) {
  HttpResponse response;
  response.failure = failure;
  response.failure_message = "the connection was lost";
  return response;
}

}  // namespace token_refresh
