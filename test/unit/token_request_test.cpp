#include "core/token_request.h"

#include <gtest/gtest.h>

#include <string>

#include "core/encoding.h"
#include "core/form_params.h"
#include "core/uuid.h"

namespace token_refresh {
namespace {

Provider SomeProvider(ClientAuthMethod method) {
  Provider provider;
  provider.name = "example";
  provider.client_id = "the client";
  if (method != ClientAuthMethod::kNone) provider.client_secret = Secret("fake:secret+%");
  provider.options.token_endpoint = "https://as.example.com/token";
  provider.options.auth_method = method;
  return provider;
}

constexpr Micros kNow = 1'700'000'000'123 * kMillisecond;

HttpRequest Build(const Provider& provider, const HttpDefaults& defaults = {}) {
  RefreshInput input;
  input.refresh_token = "fake/refresh";
  input.subject = "user-7";
  input.now = kNow;
  Result<HttpRequest> request = BuildRefreshRequest(provider, input, defaults);
  if (!request) {
    ADD_FAILURE() << request.error().message;
    return {};
  }
  return *std::move(request);
}

// The value of the header, "(none)" without one, "(several)" with more than one.
std::string HeaderOf(const HttpRequest& request, std::string_view name) {
  std::string value = "(none)";
  for (const HttpHeader& header : request.headers) {
    if (header.name != name) continue;
    value = value == "(none)" ? std::string(header.value.view()) : "(several)";
  }
  return value;
}

std::string Body(const HttpRequest& request) { return std::string(request.body.view()); }

TEST(TokenRequestTest, PostsAFormToTheTokenEndpoint) {
  const HttpRequest request = Build(SomeProvider(ClientAuthMethod::kClientSecretBasic));
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.url, "https://as.example.com/token");
  EXPECT_EQ(Body(request), "grant_type=refresh_token&refresh_token=fake%2Frefresh");
  EXPECT_EQ(HeaderOf(request, "Content-Type"), "application/x-www-form-urlencoded");
  EXPECT_EQ(HeaderOf(request, "Accept"), "application/json");
  EXPECT_EQ(HeaderOf(request, "User-Agent"), "token_refresh (PostgreSQL)");
}

TEST(TokenRequestTest, PrefersTheRefreshEndpoint) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.refresh_endpoint = "https://as.example.com/refresh";
  EXPECT_EQ(Build(provider).url, "https://as.example.com/refresh");
}

TEST(TokenRequestTest, BasicEncodesIdAndSecretFirst) {
  const HttpRequest request = Build(SomeProvider(ClientAuthMethod::kClientSecretBasic));
  EXPECT_EQ(HeaderOf(request, "Authorization"), "Basic " + Base64Encode("the+client:fake%3Asecret%2B%25"));
}

TEST(TokenRequestTest, BasicRawTakesThemAsTheyAre) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretBasic);
  provider.options.basic_encoding = BasicEncoding::kRaw;
  EXPECT_EQ(HeaderOf(Build(provider), "Authorization"), "Basic " + Base64Encode("the client:fake:secret+%"));
}

TEST(TokenRequestTest, PostPutsTheClientIntoTheBody) {
  const HttpRequest request = Build(SomeProvider(ClientAuthMethod::kClientSecretPost));
  EXPECT_EQ(Body(request),
            "grant_type=refresh_token&refresh_token=fake%2Frefresh&client_id=the+client&"
            "client_secret=fake%3Asecret%2B%25");
  EXPECT_EQ(HeaderOf(request, "Authorization"), "(none)");
}

TEST(TokenRequestTest, APublicClientOnlyNamesItself) {
  const HttpRequest request = Build(SomeProvider(ClientAuthMethod::kNone));
  EXPECT_EQ(Body(request), "grant_type=refresh_token&refresh_token=fake%2Frefresh&client_id=the+client");
  EXPECT_EQ(HeaderOf(request, "Authorization"), "(none)");
}

TEST(TokenRequestTest, SendsTheScopeWhenThereIsOne) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretBasic);
  provider.options.scope = "read write";
  EXPECT_EQ(Body(Build(provider)), "grant_type=refresh_token&refresh_token=fake%2Frefresh&scope=read+write");
}

TEST(TokenRequestTest, RequestParamsReplaceRemoveAndAdd) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretPost);
  provider.options.scope = "read";
  provider.options.request_params = {{"zone", "a&b"},
                                     {"audience", ""},
                                     {"grant_type", "refresh"},
                                     {"client_id", std::nullopt},
                                     {"absent", std::nullopt}};
  EXPECT_EQ(Body(Build(provider)),
            "grant_type=refresh&refresh_token=fake%2Frefresh&scope=read&client_secret=fake%3Asecret%2B%25&"
            "audience=&zone=a%26b");
}

TEST(TokenRequestTest, RequestHeadersAddAndReplaceInAnyCase) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretBasic);
  provider.options.request_headers = {{"X-Tenant", "seven"}, {"accept", "text/plain"}, {"User-Agent", "other"}};
  const HttpRequest request = Build(provider);
  EXPECT_EQ(HeaderOf(request, "X-Tenant"), "seven");
  EXPECT_EQ(HeaderOf(request, "Accept"), "text/plain");
  EXPECT_EQ(HeaderOf(request, "accept"), "(none)");
  EXPECT_EQ(HeaderOf(request, "User-Agent"), "other");
  EXPECT_EQ(request.headers.size(), 5u);
}

TEST(TokenRequestTest, TheProvidersLimitsComeBeforeTheDefaults) {
  HttpDefaults defaults{7 * kSecond, 70 * kSecond, "/etc/default.pem", false};
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  const HttpRequest plain = Build(provider, defaults);
  EXPECT_EQ(plain.connect_timeout, 7 * kSecond);
  EXPECT_EQ(plain.timeout, 70 * kSecond);
  EXPECT_EQ(plain.ca_file, "/etc/default.pem");

  provider.options.connect_timeout = kSecond;
  provider.options.timeout = 2 * kSecond;
  provider.options.ca_file = "/etc/own.pem";
  const HttpRequest own = Build(provider, defaults);
  EXPECT_EQ(own.connect_timeout, kSecond);
  EXPECT_EQ(own.timeout, 2 * kSecond);
  EXPECT_EQ(own.ca_file, "/etc/own.pem");
}

TEST(TokenRequestTest, PlainHttpNeedsProviderAndAdministrator) {
  for (const bool by_option : {false, true}) {
    for (const bool by_setting : {false, true}) {
      Provider provider = SomeProvider(ClientAuthMethod::kNone);
      provider.options.allow_insecure_http = by_option;
      HttpDefaults defaults;
      defaults.allow_insecure_http = by_setting;
      EXPECT_EQ(Build(provider, defaults).allow_insecure_http, by_option && by_setting);
    }
  }
}

TEST(TokenRequestTest, AsksWithAnyGrantTypeAndSeparatesScopes) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretBasic);
  provider.options.request.grant_type = "refresh";
  provider.options.scope = " read  write ";
  provider.options.request.scope_separator = ",";
  EXPECT_EQ(Body(Build(provider)), "grant_type=refresh&refresh_token=fake%2Frefresh&scope=read%2Cwrite");
}

TEST(TokenRequestTest, SendsJson) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretPost);
  provider.client_secret = Secret("a\"b\\c\n\xC3\xBC");
  provider.options.request.format = RequestFormat::kJson;
  const HttpRequest request = Build(provider);
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(Body(request), R"({"grant_type":"refresh_token","refresh_token":"fake/refresh","client_id":"the client",)"
                           R"("client_secret":"a\u0022b\u005cc\u000a)"
                           "\xC3\xBC\"}");
  EXPECT_EQ(HeaderOf(request, "Content-Type"), "application/json");
  EXPECT_TRUE(request.query.empty());
}

TEST(TokenRequestTest, PutsTheParametersIntoTheQuery) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.request.format = RequestFormat::kQuery;
  const HttpRequest post = Build(provider);
  EXPECT_EQ(post.method, "POST");
  EXPECT_EQ(post.url, "https://as.example.com/token");
  EXPECT_EQ(post.query.view(), "grant_type=refresh_token&refresh_token=fake%2Frefresh&client_id=the+client");
  EXPECT_TRUE(post.body.empty());
  EXPECT_EQ(HeaderOf(post, "Content-Type"), "(none)");
  provider.options.request.method = RequestMethod::kGet;
  EXPECT_EQ(Build(provider).method, "GET");
}

TEST(TokenRequestTest, RenamesStandardParametersOnly) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretPost);
  provider.options.request.param_names = {{"client_id", "client_key"}, {"absent", "x"}};
  provider.options.request_params = {{"client_id", "own"}, {"client_key", "key"}};
  EXPECT_EQ(Body(Build(provider)),
            "grant_type=refresh_token&refresh_token=fake%2Frefresh&client_key=key&client_secret=fake%3Asecret%2B%25&"
            "client_id=own");
}

TEST(TokenRequestTest, RenamesAllAtOnce) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.request.param_names = {{"client_id", "refresh_token"}, {"refresh_token", "client_id"}};
  EXPECT_EQ(Body(Build(provider)), "grant_type=refresh_token&client_id=fake%2Frefresh&refresh_token=the+client");
}

TEST(TokenRequestTest, GeneratesValues) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.request_params = {{"grant_type", std::nullopt},
                                     {"refresh_token", std::nullopt},
                                     {"a", "${now}.${now_ms}"},
                                     {"b", "${client_id}/${subject}"},
                                     {"c", "${uuid}"},
                                     {"d", "$${now}"}};
  provider.options.request_headers = {{"X-Id", "${uuid}"}};
  const HttpRequest request = Build(provider);
  const std::string uuid = HeaderOf(request, "X-Id");
  EXPECT_TRUE(ParseUuid(uuid).has_value()) << uuid;
  EXPECT_EQ(uuid[14], '4');
  EXPECT_NE(std::string("89ab").find(uuid[19]), std::string::npos) << uuid;
  EXPECT_EQ(Body(request),
            "client_id=the+client&a=1700000000.1700000000123&b=the+client%2Fuser-7&c=" + uuid + "&d=%24%7Bnow%7D");
  EXPECT_NE(HeaderOf(Build(provider), "X-Id"), uuid);
}

TEST(TokenRequestTest, AMissingValueIsNamedAndNothingIsSent) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.request_params = {{"a", "x${subject||account}"}};
  const Result<HttpRequest> request = BuildRefreshRequest(provider, {"fake-refresh", "", kNow}, {});
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(request.error().message, "there is no value for ${subject||account}");
}

TEST(TokenRequestTest, AValueCannotBreakOutOfAHeader) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.request_headers = {{"X-User", "${subject}"}};
  const Result<HttpRequest> request = BuildRefreshRequest(provider, {"fake-refresh", "a\r\nEvil: yes", kNow}, {});
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().message, "the value of header X-User holds control characters");
}

std::string Encoded(std::string_view value) {
  Secret out("=");
  AppendFormEncoded(out, value);
  return std::string(out.view());
}

TEST(FormEncodingTest, KeepsWhatMayStay) { EXPECT_EQ(Encoded("azAZ09*-._"), "=azAZ09*-._"); }

TEST(FormEncodingTest, EncodesAllElse) {
  EXPECT_EQ(Encoded(""), "=");
  EXPECT_EQ(Encoded(" ~"), "=+%7E");
  EXPECT_EQ(Encoded("a b&c=d+e%f"), "=a+b%26c%3Dd%2Be%25f");
  EXPECT_EQ(Encoded(std::string("\0\n\xFF", 3)), "=%00%0A%FF");
  EXPECT_EQ(Encoded("\xC3\xBC"), "=%C3%BC");
}

}  // namespace
}  // namespace token_refresh
