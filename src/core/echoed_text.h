// A text that may quote something of ours, with the escapes undone that it may have been quoted in. For ScrubText.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace token_refresh {

enum class PlusSign { kItself, kBlank };

// Of percent encoding, of a JSON string, or of HTML; what JSON or HTML spell beyond ASCII stays as it is.
enum class Escapes { kAll, kPercent, kBackslash, kReference };

// Whether there are characters in the text that begin escapes of several kinds.
bool MixesEscapes(std::string_view text);

// One byte for each character that stands for itself, and for each escape. kBlank: as a form is read (WHATWG URL, section
// 5.1).
class EchoedText {
 public:
  // open_end: there is more behind the text, so its end may cut an escape in two.
  EchoedText(std::string_view text, Escapes escapes, PlusSign plus, bool open_end);

  // Where in the text the secret ends that begins there at place, or with the text if it may go on behind it; place
  // itself when none does, or within an escape.
  size_t SecretEnd(std::string_view secret, size_t place) const;

 private:
  bool open_end_;
  std::string bytes_;
  std::vector<size_t> begins_;   // where each of them begins in the text; in the end, the text's own
  std::vector<size_t> byte_at_;  // the reverse; nowhere within an escape
};

}  // namespace token_refresh
