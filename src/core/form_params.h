// The parameters of a request to a provider: application/x-www-form-urlencoded (RFC 6749 appendix B), or JSON.
// For whoever builds such requests.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/secret.h"

namespace token_refresh {

// One value (WHATWG URL: the set * - . _ and alphanumerics stay, space becomes +).
void AppendFormEncoded(Secret& out, std::string_view value);

class FormParams {
 public:
  // Names and values must live as long as this does: so no secret is copied before it is encoded.
  void Add(std::string_view name, std::string_view value) { params_.push_back({name, value}); }
  // For a value that nobody else keeps.
  void AddOwned(std::string_view name, Secret value);
  // Replaces the value where the name stands; else adds it.
  void Set(std::string_view name, std::string_view value);
  void SetOwned(std::string_view name, Secret value);
  void Remove(std::string_view name);
  // From names to other ones, all at once: a new name is not renamed again. Keeps values and places.
  void Rename(const std::map<std::string, std::string>& names);

  Secret Encode() const;
  // An object of texts. Of a name that stands there twice the last value counts.
  Secret EncodeJson() const;

 private:
  struct Param {
    std::string_view name;
    std::string_view value;
  };
  std::vector<Param> params_;
  std::deque<Secret> owned_;
};

}  // namespace token_refresh
