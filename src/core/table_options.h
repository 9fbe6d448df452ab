// The options of attach_table: which columns of an application's table hold what,
// and how they are read and written. Pure: whether the columns, functions, key and
// time zone exist, and have types that fit, is checked by the SQL layer, which is
// the only caller.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/provider.h"
#include "core/qualified_name.h"
#include "core/table_status.h"

namespace token_refresh {

enum class TableCipher {
  kPlain,         // the token itself
  kNative,        // sealed_box
  kAes256GcmHex,  // hex_cipher, with the key of the key ring that option "key" names
  kFunctions,     // a pair of SQL functions of the table's owner
};

// "plain", "native", "aes-256-gcm-hex" or "functions", to be stored.
std::string_view TableCipherWord(TableCipher cipher);

// What the column of the last attempt's result is set to.
struct ResultValues {
  std::string success = "success";
  std::string failure = "error";
};

struct TableOptions {
  std::string provider;  // empty: the column "provider" has it
  std::string label;     // of all rows, unless there is a column "label"
  // From the word of a TableColumnOption to the name of the column, as the catalog has it: neither
  // quoted nor folded. Holds the columns that were named, and only those.
  std::map<std::string, std::string> columns;
  StatusValues status_values;
  ResultValues result_values;
  std::string filter;                 // an SQL condition, not looked into here; empty: every row
  std::optional<TableCipher> cipher;  // always set when there is no problem
  QualifiedName decrypt, encrypt;     // with kFunctions
  std::string key;                    // with kAes256GcmHex
  bool trigger = true;
  std::optional<Micros> poll_interval;  // at least a second
  std::optional<Micros> refresh_margin;
  std::string time_zone = "UTC";  // of columns of type timestamp without time zone
};

// An option that names a column.
struct TableColumnOption {
  std::string_view option;  // "error_column"
  std::string_view word;    // "last_error"
  bool required;
  bool written;  // by a refresh; the others are only read, and may be one and the same column
};

const std::vector<TableColumnOption>& TableColumnOptions();

// Every option, in the order in which messages list them. "cipher" may be an
// object instead of the text that its type says.
const std::vector<OptionSpec>& TableOptionSpecs();

struct OptionProblem {
  std::string option;   // its key, made printable and cut to 64 characters; empty: the options as a whole
  std::string problem;  // a whole sentence that names the option, without a full stop; never quotes what may be secret
};

// Reads json, one object in which every kInterval option has already become an
// integer number of microseconds (the SQL layer converts PostgreSQL interval
// text). Returns every problem there is, none when all is well. With problems,
// options holds what could be read, so that the caller can look for more of them
// in the catalog before it reports all. Of unknown keys the first one's problem
// lists those that exist.
[[nodiscard]] std::vector<OptionProblem> ParseTableOptions(std::string_view json, TableOptions& options);

}  // namespace token_refresh
