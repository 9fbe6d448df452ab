// The option error_rules: an array of {status, pointer, value, class}.
#include <algorithm>

#include "core/option_values.h"

namespace token_refresh {
namespace {

constexpr int kLowestStatus = 200;
constexpr int kHighestStatus = 599;

// What a provider can say; the other classes are the engine's own findings.
const std::vector<std::string_view>& RuleClasses() {
  static const std::vector<std::string_view> classes = {"transient", "rate_limited", "reauth", "client_config",
                                                        "too_early"};
  return classes;
}

Status CheckMembers(const std::string& place, const SecretJson& rule) {
  if (!rule.is_object()) return OptionError(place, "must be an object, not " + std::string(JsonTypeName(rule)));
  const std::vector<std::string_view> known = {"status", "pointer", "value", "class"};
  for (const auto& [name, member] : *rule.get_ptr<const SecretJson::object_t*>()) {
    if (std::find(known.begin(), known.end(), std::string_view(name)) == known.end()) {
      return OptionError(place, "has an unknown member " + QuoteWord(name),
                         "Known members are: status, pointer, value, class.");
    }
  }
  return Ok();
}

Status ReadRuleClass(const std::string& place, const SecretJson& rule, ErrorRule& out) {
  const SecretJson* value = FindMember(rule, "class");
  if (value == nullptr) return OptionError(place, "has no class", "A class is " + ListWords(RuleClasses()) + ".");
  const std::string key = place + ".class";
  if (Status type = CheckOptionType(key, OptionType::kText, *value); !type) return type;
  const Result<size_t> word = ReadWord(key, *value, RuleClasses());
  if (!word) return word.error();
  out.failure = ParseFailureName(RuleClasses()[*word]).value_or(FailureClass::kTransient);
  return Ok();
}

Status ReadRuleStatus(const std::string& place, const SecretJson& rule, ErrorRule& out) {
  const SecretJson* value = FindMember(rule, "status");
  if (value == nullptr) return Ok();
  const std::string key = place + ".status";
  if (Status type = CheckOptionType(key, OptionType::kInteger, *value); !type) return type;
  const Result<int64_t> status = ReadInteger(key, *value, kLowestStatus, kHighestStatus);
  if (!status) return status.error();
  // A redirect is refused before any rule is looked at.
  if (*status / 100 == 3) return OptionError(key, "must not be 3xx");
  out.status = static_cast<int>(*status);
  return Ok();
}

Status ReadRuleText(const std::string& place, const SecretJson& rule, std::string_view member,
                    std::optional<std::string>& out) {
  const SecretJson* value = FindMember(rule, member);
  if (value == nullptr) return Ok();
  const std::string key = place + "." + std::string(member);
  if (Status type = CheckOptionType(key, OptionType::kText, *value); !type) return type;
  return ReadText(key, *value, out.emplace());
}

// A rule that could match nothing, or everything, is a slip of its author.
Status CheckRule(const std::string& place, const std::optional<std::string>& pointer, const ErrorRule& rule) {
  if (pointer.has_value() && !IsJsonPointer(*pointer)) {
    return OptionError(place + ".pointer", "is not a JSON pointer (RFC 6901)", "An example is \"/error\".");
  }
  if (rule.value.has_value() && !pointer.has_value()) return OptionError(place, "has a value but no pointer");
  if (!rule.status.has_value() && !pointer.has_value()) return OptionError(place, "needs a status or a pointer");
  const bool never_final = rule.status.has_value() && (*rule.status == 429 || *rule.status >= 500);
  if (never_final && rule.failure == FailureClass::kReauth) {
    return OptionError(place, "cannot have class \"reauth\" with a status of 429 or 5xx",
                       "Such an answer says nothing about the grant.");
  }
  return Ok();
}

Result<ErrorRule> ReadRule(const std::string& place, const SecretJson& value) {
  ErrorRule rule;
  std::optional<std::string> pointer;
  if (Status status = CheckMembers(place, value); !status) return status.error();
  if (Status status = ReadRuleClass(place, value, rule); !status) return status.error();
  if (Status status = ReadRuleStatus(place, value, rule); !status) return status.error();
  if (Status status = ReadRuleText(place, value, "pointer", pointer); !status) return status.error();
  if (Status status = ReadRuleText(place, value, "value", rule.value); !status) return status.error();
  if (Status status = CheckRule(place, pointer, rule); !status) return status.error();
  rule.pointer = pointer.value_or("");
  return rule;
}

}  // namespace

Status ReadErrorRules(std::string_view key, const SecretJson& value, std::vector<ErrorRule>& out) {
  for (size_t i = 0; i < value.size(); ++i) {
    Result<ErrorRule> rule = ReadRule(std::string(key) + "[" + std::to_string(i) + "]", value[i]);
    if (!rule) return rule.error();
    out.push_back(*std::move(rule));
  }
  return Ok();
}

}  // namespace token_refresh
