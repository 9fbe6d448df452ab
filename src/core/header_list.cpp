#include "core/header_list.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/ascii.h"
#include "core/secret.h"

namespace token_refresh {
namespace {

// libcurl would otherwise announce a large body and wait for leave to send it.
constexpr std::string_view kNoExpect = "Expect:";

// By byte; a table because every header of every request is checked.
constexpr std::array<bool, 256> MakeTable(bool (*allowed)(char)) {
  std::array<bool, 256> table{};
  for (int byte = 0; byte < 256; ++byte) table[byte] = allowed(static_cast<char>(byte));
  return table;
}

constexpr auto kNameCharacters = MakeTable([](char c) {
  return IsAsciiAlphanumeric(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
});

constexpr auto kValueCharacters = MakeTable([](char c) {
  const auto byte = static_cast<unsigned char>(c);
  return c == '\t' || (byte >= 0x20 && byte != 0x7f);
});

bool HoldsOnly(const std::array<bool, 256>& allowed, std::string_view text) {
  return std::all_of(text.begin(), text.end(), [&](char c) { return allowed[static_cast<unsigned char>(c)]; });
}

}  // namespace

bool HeaderList::Assign(const std::vector<HttpHeader>& headers) {
  Wipe();
  size_t bytes = kNoExpect.size() + 1;
  for (const HttpHeader& header : headers) {
    if (header.name.empty() || !HoldsOnly(kNameCharacters, header.name)) return false;
    if (!HoldsOnly(kValueCharacters, header.value.view())) return false;
    bytes += header.name.size() + header.value.size() + 3;
  }
  // Reserved first: growing would leave copies of secrets behind, and move what the nodes point to.
  text_.reserve(bytes);
  nodes_.reserve(headers.size() + 1);
  AddLine(kNoExpect, {}, {});
  for (const HttpHeader& header : headers) {
    const std::string_view value = TrimAsciiSpace(header.value.view());
    // "Name:" would mean to leave a header out; "Name;" is libcurl's form of an empty value.
    AddLine(header.name, value.empty() ? ";" : ": ", value);
  }
  for (size_t i = 0; i + 1 < nodes_.size(); ++i) nodes_[i].next = &nodes_[i + 1];
  return true;
}

void HeaderList::AddLine(std::string_view name, std::string_view separator, std::string_view value) {
  nodes_.push_back({text_.data() + text_.size(), nullptr});
  text_.append(name).append(separator).append(value).push_back('\0');
}

void HeaderList::Wipe() {
  nodes_.clear();
  WipeString(text_);
}

}  // namespace token_refresh
