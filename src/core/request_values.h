// What the places of an option text stand for in one request: generated values and those of the registration.
// For those who build requests.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/provider.h"
#include "core/secret_json.h"
#include "core/text_template.h"

namespace token_refresh {

// Names that always have a value, or always may have: uuid (of version 4, the same in the whole request), now
// (seconds since 1970), now_ms, client_id, subject.
const std::vector<std::string_view>& GeneratedValueNames();

// Of a version 4 UUID (RFC 9562 section 5.4). Nothing when there is no randomness to be had.
std::optional<std::string> MakeUuidText();

class RequestValues {
 public:
  // provider and subject must live as long as this does. subject may be empty: not known. captured is a JSON
  // object of texts, or empty: what the credential's answers gave. It comes before the variables of the
  // registration.
  RequestValues(const Provider& provider, std::string_view subject, std::string_view captured, Micros now);

  std::optional<std::string> Find(std::string_view name) const;
  FindValue Finder() const {
    return [this](std::string_view name) { return Find(name); };
  }

 private:
  const Provider& provider_;
  std::string_view subject_;
  Micros now_;
  std::optional<SecretJson> captured_;
  mutable std::optional<std::string> uuid_;
};

}  // namespace token_refresh
