// Options that say how a provider wants to be asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/text_template.h"
#include "option_parsing.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;

TEST(RequestOptionsTest, ReadsEveryOne) {
  const ProviderOptions options = ParsedOptions(R"({
    "grant_type": "refresh", "request_method": "POST", "request_format": "json", "scope_separator": ", ",
    "param_names": {"client_id": "client_key", "scope": "scopes"},
    "authorization_param_names": {"client_id": "appid", "scope": "state", "state": "scope"}, "request_params": {"nonce": "${uuid}"}})");
  EXPECT_EQ(options.request.grant_type, "refresh");
  EXPECT_EQ(options.request.method, RequestMethod::kPost);
  EXPECT_EQ(options.request.format, RequestFormat::kJson);
  EXPECT_EQ(options.request.scope_separator, ", ");
  EXPECT_EQ(options.request.param_names.at("client_id"), "client_key");
  EXPECT_EQ(options.request.authorization_param_names.at("client_id"), "appid");
  EXPECT_EQ(options.request_params.at("nonce"), "${uuid}");
}

TEST(RequestOptionsTest, DefaultsAreTheTextbook) { EXPECT_EQ(ParsedOptions("{}").request, RequestDialect()); }

TEST(RequestOptionsTest, AGetHasItsParametersInTheQuery) {
  EXPECT_EQ(ParsedOptions(R"({"request_method": "GET"})").request.format, RequestFormat::kQuery);
  EXPECT_EQ(ParsedOptions(R"({"request_method": "GET", "request_format": "query"})").request.method,
            RequestMethod::kGet);
  const Error error = RefusedOptions(R"({"request_method": "GET", "request_format": "form"})");
  EXPECT_EQ(error.message, R"(option "request_format" must be "query" with option "request_method" set to "GET")");
}

TEST(RequestOptionsTest, RefusesWhatMakesNoSense) {
  const auto message = [](std::string_view json) { return RefusedOptions(json).message; };
  EXPECT_EQ(message(R"({"request_method": "PUT"})"), R"(option "request_method" must be "POST" or "GET", not "PUT")");
  EXPECT_EQ(message(R"({"request_format": "xml"})"),
            R"(option "request_format" must be "form", "json" or "query", not "xml")");
  EXPECT_EQ(message(R"({"grant_type": ""})"), R"(option "grant_type" must not be empty)");
  EXPECT_EQ(message(R"({"scope_separator": ""})"), R"(option "scope_separator" must be 1 to 8 bytes long)");
  EXPECT_EQ(message(R"({"param_names": {"scope": 7}})"), R"(option "param_names.scope" must be text, not a number)");
  EXPECT_EQ(message(R"({"param_names": {"scope": ""}})"), R"(option "param_names" holds an empty name for "scope")");
  EXPECT_EQ(message(R"({"param_names": {"client_id": "x", "scope": "x"}})"),
            R"(option "param_names" holds "x" twice)");
  EXPECT_EQ(message(R"({"param_names": {"": "x"}})"), R"(option "param_names" holds a member without a usable name)");
}

TEST(RequestOptionsTest, ANameThatNoRequestHasIsRefused) {
  const Error error = RefusedOptions(R"({"param_names": {"clientid": "client_key"}})");
  EXPECT_EQ(error.message, R"(option "param_names" has an unknown member "clientid")");
  EXPECT_TRUE(error.hint.starts_with(R"(Did you mean "client_id"? A member is "grant_type", )")) << error.hint;
}

TEST(RequestOptionsTest, NamesOfAnAuthorizationRequest) {
  const auto message = [](const std::string& names) {
    return RefusedOptions(R"({"authorization_param_names": )" + names + "}").message;
  };
  EXPECT_EQ(message(R"({"grant_type": "x"})"),
            R"(option "authorization_param_names" has an unknown member "grant_type")");
  EXPECT_EQ(message(R"({"client_id": ""})"),
            R"(option "authorization_param_names" holds an empty name for "client_id")");
  EXPECT_EQ(message(R"({"client_id": "state"})"),
            R"(option "authorization_param_names" gives "client_id" the name of another parameter)");
}

TEST(RequestOptionsTest, PlacesAreChecked) {
  const auto refused = [](std::string_view value) {
    return RefusedOptions(R"({"request_params": {"p": ")" + std::string(value) + R"("}})");
  };
  EXPECT_EQ(refused("${uid}").message,
            R"(option "request_params" holds ${uid} in the value of "p", which is neither in "variables" nor in )"
            R"("captured_fields")");
  EXPECT_EQ(refused("${uid}").hint, "Did you mean ${uuid}?");
  EXPECT_EQ(refused("${now").message, R"(option "request_params" holds "${" without a "}" in the value of "p")");
  EXPECT_THAT(refused("${}").message, HasSubstr("holds ${...} with something else than a name in it"));
  EXPECT_THAT(refused("${a|b}").message, HasSubstr("something else than a name"));
  EXPECT_THAT(refused("${now||}").message, HasSubstr("something else than a name"));
  EXPECT_THAT(RefusedOptions(R"({"request_headers": {"X": "${uid}"}})").message, HasSubstr("request_headers"));
  EXPECT_EQ(ParsedOptions(R"({"request_params": {"p": "$${uid} $5 {x} $"}})").request_params.at("p"),
            "$${uid} $5 {x} $");
}

std::string Expanded(std::string_view text) {
  const FindValue find = [](std::string_view name) -> std::optional<std::string> {
    if (name == "a") return "1";
    if (name == "empty") return "";
    return std::nullopt;
  };
  const Result<std::string> expanded = ExpandText(text, find);
  return expanded.ok() ? *expanded : expanded.error().message;
}

TEST(TextTemplateTest, PutsValuesIntoPlaces) {
  EXPECT_EQ(Expanded(""), "");
  EXPECT_EQ(Expanded("x${a}y${ a }"), "x1y1");
  EXPECT_EQ(Expanded("${none||empty||a}"), "1");
  EXPECT_EQ(Expanded("$${a}${a}$$${a}"), "${a}1$${a}");
  EXPECT_EQ(Expanded("$a {a} $"), "$a {a} $");
}

TEST(TextTemplateTest, NothingBecomesEmpty) {
  EXPECT_EQ(Expanded("${empty}"), "there is no value for ${empty}");
  EXPECT_EQ(Expanded("${none||empty}"), "there is no value for ${none||empty}");
}

}  // namespace
}  // namespace token_refresh
