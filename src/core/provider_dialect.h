// In what a provider differs from the textbook: how it wants to be asked, and how it answers. Parts of
// ProviderOptions; the keys of the options are in docs/reference.md.
#pragma once

#include <map>
#include <string>

namespace token_refresh {

enum class RequestMethod { kPost, kGet };
// kQuery: the parameters stand in the URL.
enum class RequestFormat { kForm, kJson, kQuery };

constexpr char kRefreshTokenGrant[] = "refresh_token";

// How a refresh is asked for.
struct RequestDialect {
  RequestMethod method = RequestMethod::kPost;
  RequestFormat format = RequestFormat::kForm;
  std::string grant_type = kRefreshTokenGrant;
  std::map<std::string, std::string> param_names;  // standard name -> the one that is sent
  std::string scope_separator = " ";

  bool operator==(const RequestDialect&) const = default;
};

}  // namespace token_refresh
