// Setting libcurl's options, with a plain answer. Private to CurlTransfer.
#pragma once

#include <curl/curl.h>

namespace token_refresh {

template <class Value>
bool Set(CURL* easy, CURLoption option, Value value) {
  return curl_easy_setopt(easy, option, value) == CURLE_OK;
}

inline bool Set(CURL* easy, CURLoption option, int value) { return Set(easy, option, static_cast<long>(value)); }

}  // namespace token_refresh
