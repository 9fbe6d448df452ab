// Text with places for values: ${name}, or ${a||b} for the first of several that is known; $${ stands for ${.
// For option texts that depend on the registration, the credential or the moment.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace token_refresh {

// What a name stands for; nothing, or an empty text, when it is not known.
using FindValue = std::function<std::optional<std::string>(std::string_view name)>;

// Begins with a letter; then letters, digits, "_", "-" and ".".
bool IsValueName(std::string_view name);

class TextTemplate {
 public:
  // Text as it stands, or, if there are names, a place for the first of them that is known.
  struct Part {
    std::string text;
    std::vector<std::string> names;
  };

  // Errors: kInvalidArgument, for a place without end or with a bad name; the message goes on after a subject
  // ("holds ...").
  static Result<TextTemplate> Parse(std::string_view text);

  const std::vector<Part>& parts() const { return parts_; }
  bool has_places() const;

  // Errors: kInvalidArgument, naming what is not known.
  Result<std::string> Expand(const FindValue& find) const;

 private:
  std::vector<Part> parts_;
};

// The value for a place, never empty. Errors: kInvalidArgument, naming what is not known.
Result<std::string> ValueOf(const TextTemplate::Part& place, const FindValue& find);

// Of a text that may have no places. Errors: as Parse and Expand.
Result<std::string> ExpandText(std::string_view text, const FindValue& find);

}  // namespace token_refresh
