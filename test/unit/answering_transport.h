// A transport whose requests a test finds and answers by their URL. For the tests of those who ask several things.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http_messages.h"

namespace token_refresh {

// The value of the header, "(none)" without one, "(several)" with more than one.
inline std::string HeaderOf(const HttpRequest& request, std::string_view name) {
  std::string value = "(none)";
  for (const HttpHeader& header : request.headers) {
    if (header.name != name) continue;
    value = value == "(none)" ? std::string(header.value.view()) : "(several)";
  }
  return value;
}

inline std::string BodyOf(const HttpRequest& request) { return std::string(request.body.view()); }

class AnsweringTransport : public HttpTransport {
 public:
  void Submit(uint64_t id, HttpRequest request) override {
    urls.push_back(request.url);
    pending_.push_back({id, std::move(request)});
  }
  std::vector<HttpCompletion> Collect() override { return std::exchange(completed_, {}); }
  size_t in_flight() const override { return pending_.size() + completed_.size(); }

  // The oldest that waits for an answer from there; null when there is none.
  const HttpRequest* Find(std::string_view url) const {
    const auto found = FindPending(url);
    return found == pending_.end() ? nullptr : &found->second;
  }

  // Answers it; false when there is none.
  bool Answer(std::string_view url, HttpResponse response) {
    const auto found = FindPending(url);
    if (found == pending_.end()) return false;
    completed_.push_back({found->first, std::move(response)});
    pending_.erase(found);
    return true;
  }
  bool Answer(std::string_view url, int status, std::string_view body) {
    return Answer(url, MakeResponse(status, body));
  }

  // What was asked since the beginning.
  size_t CountOf(std::string_view url) const { return static_cast<size_t>(std::count(urls.begin(), urls.end(), url)); }

  std::vector<std::string> urls;

 private:
  using Pending = std::vector<std::pair<uint64_t, HttpRequest>>;

  Pending::const_iterator FindPending(std::string_view url) const {
    return std::find_if(pending_.begin(), pending_.end(), [&](const auto& p) { return p.second.url == url; });
  }

  Pending pending_;
  std::vector<HttpCompletion> completed_;
};

}  // namespace token_refresh
