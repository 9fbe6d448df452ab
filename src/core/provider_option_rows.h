// The table of provider options, by themes: adding an option is adding a row. Private to the parser of the
// options (provider.cpp and provider_options_*.cpp).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/option_values.h"
#include "core/provider.h"
#include "core/result.h"
#include "core/secret_json.h"

namespace token_refresh {

// The value has the type that the row says.
using OptionSetter = Status (*)(std::string_view key, const SecretJson& value, ProviderOptions& options);

struct OptionRow {
  OptionSpec spec;
  OptionSetter set;
};

std::vector<OptionRow> EndpointOptionRows();
std::vector<OptionRow> ClientOptionRows();
std::vector<OptionRow> RequestOptionRows();
std::vector<OptionRow> AnswerOptionRows();

// Checks the URLs, and puts the values of the registration into them.
Status FinishEndpoints(bool insecure_http_allowed, ProviderOptions& options);

// What only makes sense, or not, together. object: the options as they were given.
Status CheckRequestOptions(const SecretJson& object, ProviderOptions& options);
Status CheckSignatureOption(const ProviderOptions& options);
Status CheckClientOptions(const SecretJson& object, const ProviderOptions& options);
Status CheckAnswerOptions(const ProviderOptions& options);

// A place for a value is only worth something if it can ever be filled. member: of which member of the option
// the text is; empty: it is the option's own.
Status CheckPlaces(std::string_view key, std::string_view member, std::string_view text,
                   const ProviderOptions& options);

// Names that ${...} may hold in most options.
std::vector<std::string_view> KnownValueNames(const ProviderOptions& options);

Status SetRequestSignature(std::string_view key, const SecretJson& value, ProviderOptions& options);

template <auto Member>
Status SetText(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadText(key, value, options.*Member);
}

template <auto Member>
Status SetBoolean(std::string_view, const SecretJson& value, ProviderOptions& options) {
  options.*Member = *value.get_ptr<const bool*>();
  return Ok();
}

// Of a closed list of words, in the order of the enumeration.
template <class Enum>
Status SetWord(std::string_view key, const SecretJson& value, const std::vector<std::string_view>& words, Enum& out) {
  const Result<size_t> word = ReadWord(key, value, words);
  if (!word) return word.error();
  out = static_cast<Enum>(*word);
  return Ok();
}

template <class Target>
Status StoreInterval(std::string_view key, const SecretJson& value, IntervalBound bound, Target& target) {
  const Result<Micros> interval = ReadInterval(key, value, bound);
  if (!interval) return interval.error();
  target = *interval;
  return Ok();
}

}  // namespace token_refresh
