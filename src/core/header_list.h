// The header lines of one request in the form libcurl reads, in memory that is
// wiped. Private to CurlTransfer, which reuses one list for many requests.
#pragma once

#include <curl/curl.h>

#include <string>
#include <string_view>
#include <vector>

#include "core/http.h"

namespace token_refresh {

class HeaderList {
 public:
  HeaderList() = default;
  ~HeaderList() { Wipe(); }
  HeaderList(const HeaderList&) = delete;
  HeaderList& operator=(const HeaderList&) = delete;

  // False, and nothing assigned, when a name is no token or a value holds a control
  // character (RFC 9110 section 5): it could smuggle in a header or a second request.
  bool Assign(const std::vector<HttpHeader>& headers);

  // Valid until the next call of Assign or Wipe.
  curl_slist* lines() { return nodes_.data(); }

  void Wipe();

 private:
  void AddLine(std::string_view name, std::string_view separator, std::string_view value);

  std::string text_;  // the lines, each ending in NUL
  std::vector<curl_slist> nodes_;
};

}  // namespace token_refresh
