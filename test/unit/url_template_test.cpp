#include "core/url_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "option_parsing.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;

std::string Expanded(std::string_view text, const std::map<std::string, std::string>& values,
                     const std::vector<std::string>& allowed_hosts = {}) {
  const FindValue find = [&](std::string_view name) -> std::optional<std::string> {
    const auto found = values.find(std::string(name));
    return found == values.end() ? std::nullopt : std::optional<std::string>(found->second);
  };
  const Result<std::string> url = ExpandUrl(text, find, allowed_hosts);
  return url.ok() ? *url : "refused: " + url.error().message;
}

constexpr char kTenant[] = "https://${t}.example.com/token";
constexpr char kHostRefused[] = "refused: a value for the host of a URL holds something else than a host may";
constexpr char kNotAllowed[] = "refused: the values make a URL whose host is not allowed";

TEST(UrlTemplateTest, AValueChoosesTheTenant) {
  EXPECT_EQ(Expanded(kTenant, {{"t", "acme"}}), "https://acme.example.com/token");
  EXPECT_EQ(Expanded(kTenant, {{"t", "eu-1.Acme"}}), "https://eu-1.Acme.example.com/token");
  EXPECT_EQ(Expanded("https://plain.example/x", {}), "https://plain.example/x");
  EXPECT_EQ(Expanded(kTenant, {}), "refused: there is no value for ${t}");
  EXPECT_EQ(Expanded(kTenant, {{"t", ""}}), "refused: there is no value for ${t}");
}

TEST(UrlTemplateTest, AValueCannotLeaveTheHost) {
  for (const char* value :
       {"evil.net/", "evil.net/x", "evil.net?", "evil.net#", "evil.net:443", "u@evil.net", "evil.net\\", "a b", "a%2eb",
        "[::1]", ".", "..", ".a", "a.", "a..b", "\xC3\xBC", "a\r\nb", "a\tb"}) {
    EXPECT_EQ(Expanded(kTenant, {{"t", value}}), kHostRefused) << value;
  }
}

TEST(UrlTemplateTest, AllowedHostsDecide) {
  constexpr char kUrl[] = "https://accounts.${zone}/token";
  const std::vector<std::string> hosts = {"accounts.example.eu", "*.example.com"};
  EXPECT_EQ(Expanded(kUrl, {{"zone", "example.eu"}}, hosts), "https://accounts.example.eu/token");
  EXPECT_EQ(Expanded(kUrl, {{"zone", "EXAMPLE.com"}}, hosts), "https://accounts.EXAMPLE.com/token");
  for (const char* zone : {"evil.net", "example.eu.evil.net", "example.community", "eu", "xexample.com", "127.1"}) {
    EXPECT_EQ(Expanded(kUrl, {{"zone", zone}}, hosts), kNotAllowed) << zone;
  }
  EXPECT_EQ(Expanded("https://${h}/", {{"h", "example.com"}}, hosts), kNotAllowed);
}

// The parser refuses such templates; what has come past it is still not asked.
TEST(UrlTemplateTest, WithoutAllowedHostsTheEndIsFixed) {
  EXPECT_EQ(Expanded("https://${h}/", {{"h", "evil.net"}}), kNotAllowed);
  EXPECT_EQ(Expanded("https://${h}example.com/", {{"h", "evil"}}), kNotAllowed);
  EXPECT_EQ(Expanded("https://${h}.0.0.1/", {{"h", "127"}}), kNotAllowed);
}

TEST(UrlTemplateTest, PathAndQueryAreEncoded) {
  constexpr char kUrl[] = "https://a.example/t/${p}/token?q=${q}";
  EXPECT_EQ(Expanded(kUrl, {{"p", "a/b?c#d e"}, {"q", "x&y=z\r\n"}}),
            "https://a.example/t/a%2Fb%3Fc%23d%20e/token?q=x%26y%3Dz%0D%0A");
  EXPECT_EQ(Expanded(kUrl, {{"p", "%2e%2e"}, {"q", "1"}}), "https://a.example/t/%252e%252e/token?q=1");
  for (const char* value : {".", ".."}) {
    EXPECT_EQ(Expanded(kUrl, {{"p", value}, {"q", "1"}}), "refused: a value leads out of the path of a URL");
  }
  EXPECT_EQ(Expanded(kUrl, {{"p", "1"}, {"q", ".."}}), "https://a.example/t/1/token?q=..");
  EXPECT_EQ(Expanded("https://a.example/.${p}", {{"p", "."}}), "refused: a value leads out of the path of a URL");
  EXPECT_EQ(Expanded(kUrl, {{"p", std::string(3000, 'x')}, {"q", "1"}}),
            "refused: the values do not make a usable URL");
}

TEST(UrlTemplateTest, KnowsHostPatterns) {
  for (const char* pattern : {"*.example.com", "a.example", "localhost", "127.0.0.1", "*.x.co.uk"}) {
    EXPECT_TRUE(IsHostPattern(pattern)) << pattern;
  }
  for (const char* pattern :
       {"", "*", "*.com", "*example.com", "a.*.com", "*.", "*..com", "a b", "*.0.1", "https://a.example"}) {
    EXPECT_FALSE(IsHostPattern(pattern)) << pattern;
  }
}

TEST(TemplateOptionsTest, VariablesOfTheRegistrationArePutInForGood) {
  const ProviderOptions options = ParsedOptions(R"({
    "token_endpoint": "https://${tenant}.example.com/${realm||tenant}/token", "issuer": "https://${tenant}.example.com",
    "variables": {"tenant": "acme"}, "captured_fields": ["realm"]})");
  EXPECT_EQ(options.issuer, "https://acme.example.com");
  EXPECT_EQ(options.token_endpoint, "https://${tenant}.example.com/${realm||tenant}/token");
}

TEST(TemplateOptionsTest, RefusesWhatCannotBeFilledOrIsNotSafe) {
  const auto refused = [](std::string_view json) { return RefusedOptions(json).message; };
  EXPECT_EQ(refused(R"({"variables": {"tenant": null}})"), R"(option "variables" needs a value for "tenant")");
  EXPECT_EQ(refused(R"({"variables": {"tenant": ""}})"), R"(option "variables" needs a value for "tenant")");
  EXPECT_EQ(RefusedOptions(R"({"variables": {"tenant": null}})").hint,
            R"(Give it, as {"variables": {"tenant": "..."}}; for a preset, docs/providers.md says what it is.)");
  EXPECT_EQ(refused(R"({"variables": {"tenant": 7}})"), R"(option "variables.tenant" must be text, not a number)");
  EXPECT_EQ(refused(R"({"variables": {"now": "x"}})"),
            R"(option "variables" must not hold "now", which has a meaning of its own)");
  EXPECT_EQ(refused(R"({"variables": {"a b": "x"}})"), R"(option "variables" holds "a b", which is not a usable name)");
  const Error unknown =
      RefusedOptions(R"({"token_endpoint": "https://${tenent}.example.com/", "variables": {"tenant": "acme"}})");
  EXPECT_EQ(unknown.message, R"(option "token_endpoint" holds ${tenent}, which is neither in "variables" nor in )"
                             R"("captured_fields")");
  EXPECT_EQ(unknown.hint, "Did you mean ${tenant}?");
  EXPECT_EQ(refused(R"({"issuer": "https://${tenant}.example.com", "captured_fields": ["tenant"]})"),
            R"(option "issuer" may hold values of option "variables" only)");
  EXPECT_EQ(refused(R"({"token_endpoint": "https://${t}.example.com/x y", "captured_fields": ["t"]})"),
            R"(option "token_endpoint" is not a usable http(s) URL)");
  for (const char* url : {"${t}://a.example/", "https://a.example:${t}/", "https://a${t}:1${t}/"}) {
    EXPECT_EQ(refused(R"({"captured_fields": ["t"], "token_endpoint": ")" + std::string(url) + "\"}"),
              R"(option "token_endpoint" has a place for a value in its scheme or port)")
        << url;
  }
  EXPECT_EQ(refused(R"({"variables": {"t": "evil.net/x"}, "token_endpoint": "https://${t}.example.com/"})"),
            R"(option "token_endpoint" cannot be used: a value for the host of a URL holds something else than a )"
            R"(host may)");
}

TEST(TemplateOptionsTest, AHostOpenToAnybodyNeedsAllowedHosts) {
  for (const char* url : {"https://${t}/", "https://a.${t}/", "https://${t}.com/", "https://${t}example.com/",
                          "https://${t}.0.0.1/", "https://${t}.example.com./", "https://${t}:8443/"}) {
    const std::string options = R"("captured_fields": ["t"], "token_endpoint": ")" + std::string(url) + "\"";
    const Error error = RefusedOptions("{" + options + "}");
    EXPECT_THAT(error.message, HasSubstr("there are no \"allowed_hosts\"")) << url;
    EXPECT_EQ(ParsedOptions("{" + options + R"(, "allowed_hosts": ["*.EXAMPLE.com"]})").token_endpoint, url);
  }
  for (const char* url :
       {"https://${t}.example.com:8443/", "https://x-${t}.${t}.example.com?a", "https://a.example/${t}"}) {
    EXPECT_EQ(
        ParsedOptions(R"({"captured_fields": ["t"], "token_endpoint": ")" + std::string(url) + "\"}").token_endpoint,
        url);
  }
  EXPECT_THAT(RefusedOptions(R"({"allowed_hosts": ["*.com"]})").message, HasSubstr("option \"allowed_hosts[0]\""));
  EXPECT_THAT(RefusedOptions(R"({"allowed_hosts": []})").message, HasSubstr("must not be empty"));
}

TEST(TemplateOptionsTest, ATemplateIsHeldToHttps) {
  EXPECT_EQ(RefusedOptions(R"({"token_endpoint": "http://${t}.example.com/", "captured_fields": ["t"]})").message,
            R"(option "token_endpoint" uses plain http to a host that is not loopback)");
  EXPECT_EQ(RefusedOptions(R"({"issuer": "http://${t}.example.com/", "variables": {"t": "a"}})").message,
            R"(option "issuer" uses plain http to a host that is not loopback)");
}

}  // namespace
}  // namespace token_refresh
