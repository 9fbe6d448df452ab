// ScrubText: one pass over the foreign text that decides, place by place,
// whether something secret begins there, as it is or in escapes. It ends as soon as the result is full,
// and looks at no more than kWindow bytes, so a long text costs no more than a
// short one, however much of it is redacted.
#include <algorithm>
#include <cstdint>

#include "core/ascii.h"
#include "core/echoed_text.h"
#include "core/failure.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

constexpr std::string_view kRedacted = "[redacted]";
constexpr std::string_view kEllipsis = "...";
constexpr size_t kTokenRun = 20;
constexpr size_t kWindow = 8 * kMaxFailureMessage;

// The characters of base64, base64url, hex, JWT, UUID and percent encoding.
bool IsTokenChar(char c) {
  return IsAsciiAlphanumeric(c) || std::string_view("-._~+/=%").find(c) != std::string_view::npos;
}

// True for a word whose letters change case as randomly as encoded bytes do;
// words joined in CamelCase change it less often.
bool HasRandomCase(std::string_view run) {
  size_t letters = 0, changes = 0;
  for (size_t i = 0; i < run.size(); ++i) {
    if (!IsAsciiAlpha(run[i])) continue;
    ++letters;
    if (i > 0 && IsAsciiAlpha(run[i - 1]) && IsAsciiUpper(run[i]) != IsAsciiUpper(run[i - 1])) ++changes;
  }
  return changes * 3 >= letters;
}

// True when there are kTokenRun letters of one case in a row: no word is that long.
bool HasEndlessWord(std::string_view run) {
  size_t lower = 0, upper = 0;
  for (const char c : run) {
    lower = IsAsciiLower(c) ? lower + 1 : 0;
    upper = IsAsciiUpper(c) ? upper + 1 : 0;
    if (lower >= kTokenRun || upper >= kTokenRun) return true;
  }
  return false;
}

// Error codes such as invalid_refresh_token and host names must stay readable,
// and they consist of words; what was made of random bytes nearly always has a
// digit in twenty characters.
bool LooksLikeToken(std::string_view run) {
  if (run.size() < kTokenRun) return false;
  if (std::any_of(run.begin(), run.end(), IsAsciiDigit)) return true;
  return HasEndlessWord(run) || HasRandomCase(run);
}

class Scrubber {
 public:
  Scrubber(std::string_view text, const std::vector<std::string_view>& secrets)
      : text_(text.substr(0, kWindow)),
        cut_(text.size() > kWindow),
        secrets_(secrets) {
    Undo(Escapes::kAll, PlusSign::kItself);
    Undo(Escapes::kAll, PlusSign::kBlank);
    if (!MixesEscapes(text_)) return;
    // Or else a secret in which there is what looks like an escape of one kind would not be found in another.
    Undo(Escapes::kPercent, PlusSign::kItself);
    Undo(Escapes::kPercent, PlusSign::kBlank);
    Undo(Escapes::kBackslash, PlusSign::kItself);
    Undo(Escapes::kReference, PlusSign::kItself);
  }

  std::string Run() {
    size_t here = 0;
    while (here < text_.size() && out_.size() <= kMaxFailureMessage) {
      const size_t end = SecretEnd(here);
      if (end > here) {
        out_ += kRedacted;
        here = end;
      } else {
        here += CopyCharacter(text_.substr(here));
      }
    }
    return Cut();
  }

 private:
  void Undo(Escapes escapes, PlusSign plus) { echoes_.emplace_back(text_, escapes, plus, cut_); }

  // Where the secret that begins here ends, with all others that begin inside
  // it; here itself when there is none.
  size_t SecretEnd(size_t here) {
    size_t end = std::max(LongestSecretEnd(here), TokenRunEnd(here));
    for (size_t inside = here + 1; inside < end; ++inside) end = std::max(end, LongestSecretEnd(inside));
    return end;
  }

  size_t LongestSecretEnd(size_t here) const {
    const std::string_view rest = text_.substr(here);
    size_t end = here;
    for (const std::string_view secret : secrets_) {
      // What begins here may go on behind the window.
      const bool begins = rest.starts_with(secret) || (cut_ && secret.starts_with(rest));
      if (begins) end = std::max(end, here + std::min(secret.size(), rest.size()));
      for (const EchoedText& echo : echoes_) end = std::max(end, echo.SecretEnd(secret, here));
    }
    return end;
  }

  // Each run is judged once, at its beginning or where a redaction left off.
  size_t TokenRunEnd(size_t here) {
    if (here < judged_until_) return here;
    size_t end = here;
    while (end < text_.size() && IsTokenChar(text_[end])) ++end;
    judged_until_ = end;
    if (cut_ && end == text_.size()) return end;
    return LooksLikeToken(text_.substr(here, end - here)) ? end : here;
  }

  // Returns the number of bytes taken.
  size_t CopyCharacter(std::string_view rest) {
    const size_t length = Utf8CharLength(rest);
    const std::string_view character = rest.substr(0, length);
    out_ += length > 0 && IsCleanText(character) ? character : " ";
    return length > 0 ? length : 1;
  }

  std::string Cut() {
    if (cut_ && out_.size() + kEllipsis.size() <= kMaxFailureMessage) out_ += kEllipsis;
    if (out_.size() <= kMaxFailureMessage) return std::move(out_);
    size_t kept = kMaxFailureMessage - kEllipsis.size();
    // A character is not cut in two.
    while (kept > 0 && (static_cast<uint8_t>(out_[kept]) & 0xC0) == 0x80) --kept;
    out_.resize(kept);
    out_ += kEllipsis;
    return std::move(out_);
  }

  std::string_view text_;
  bool cut_;  // there is more behind text_
  const std::vector<std::string_view>& secrets_;
  std::vector<EchoedText> echoes_;
  std::string out_;
  size_t judged_until_ = 0;
};

}  // namespace

std::string ScrubText(std::string_view text, const std::vector<std::string_view>& secrets) {
  return Scrubber(text, secrets).Run();
}

}  // namespace token_refresh
