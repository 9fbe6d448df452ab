#include "core/iso_time.h"

#include <chrono>

#include "core/ascii.h"

namespace token_refresh {
namespace {

// Takes pieces off the front of a text; the first piece that does not fit makes ok() false.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}

  bool ok() const { return ok_; }
  bool at_end() const { return rest_.empty(); }
  char next() const { return rest_.empty() ? '\0' : rest_.front(); }

  // A number of exactly that many digits, at most limit.
  int Digits(size_t count, int limit) {
    int number = 0;
    for (size_t i = 0; i < count; ++i) {
      if (!IsAsciiDigit(next())) return Fail();
      number = number * 10 + (next() - '0');
      rest_.remove_prefix(1);
    }
    return number <= limit ? number : Fail();
  }

  void Expect(char wanted) {
    if (!Skip(wanted)) Fail();
  }

  bool Skip(char wanted) {
    if (next() != wanted || rest_.empty()) return false;
    rest_.remove_prefix(1);
    return true;
  }

  // The digits after a decimal point as microseconds; there must be one.
  Micros Fraction() {
    if (!IsAsciiDigit(next())) return Fail();
    Micros fraction = 0;
    for (Micros unit = kSecond / 10; IsAsciiDigit(next()); unit /= 10) {
      fraction += (next() - '0') * unit;
      rest_.remove_prefix(1);
    }
    return fraction;
  }

 private:
  int Fail() {
    ok_ = false;
    return 0;
  }

  std::string_view rest_;
  bool ok_ = true;
};

Micros ScanZone(Scanner& scan) {
  if (scan.Skip('Z')) return 0;
  const bool west = scan.Skip('-');
  if (!west) scan.Expect('+');
  Micros offset = scan.Digits(2, 23) * kHour;
  if (scan.Skip(':')) offset += scan.Digits(2, 59) * kMinute;
  return west ? -offset : offset;
}

}  // namespace

std::optional<Micros> ParseIsoTime(std::string_view text) {
  Scanner scan(text);
  const int year = scan.Digits(4, 9999);
  scan.Expect('-');
  const int month = scan.Digits(2, 12);
  scan.Expect('-');
  const int day = scan.Digits(2, 31);
  if (!scan.Skip('T')) scan.Expect(' ');
  Micros time = scan.Digits(2, 23) * kHour;
  scan.Expect(':');
  time += scan.Digits(2, 59) * kMinute;
  scan.Expect(':');
  time += scan.Digits(2, 59) * kSecond;
  if (scan.Skip('.')) time += scan.Fraction();
  const Micros offset = ScanZone(scan);

  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!scan.ok() || !scan.at_end() || !date.ok()) return std::nullopt;
  return std::chrono::sys_days(date).time_since_epoch().count() * kDay + time - offset;
}

}  // namespace token_refresh
