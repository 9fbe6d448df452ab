#include "core/discovery.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "answering_transport.h"
#include "core/discovery_document.h"
#include "core/secret_json.h"
#include "fake_clock.h"

namespace token_refresh {
namespace {

const char kIssuer[] = "https://idp.example/tenant";
const char kOpenidUrl[] = "https://idp.example/tenant/.well-known/openid-configuration";
const char kOauthUrl[] = "https://idp.example/.well-known/oauth-authorization-server/tenant";
const char kToken[] = R"("token_endpoint":"https://idp.example/token")";

std::string Document(const std::string& members, const std::string& issuer = kIssuer) {
  return "{\"issuer\":\"" + issuer + "\"" + (members.empty() ? "" : "," + members) + "}";
}

// The options, or the word for the failure.
std::string Discovered(const std::string& document, DiscoveryRules rules = {kIssuer}) {
  const DiscoveredOptions discovered = ReadDiscoveryDocument(document, rules);
  EXPECT_NE(discovered.options.empty(), discovered.failure.empty());
  EXPECT_EQ(discovered.message.empty(), discovered.failure.empty());
  return discovered.failure.empty() ? discovered.options : discovered.failure;
}

// Without the members that are the same everywhere.
std::string Besides(const std::string& members, DiscoveryRules rules = {kIssuer}) {
  std::string options = Discovered(Document(kToken + ("," + members)), rules);
  for (const std::string& known : {"\"issuer\":\"" + std::string(kIssuer) + "\"", std::string(kToken)}) {
    const size_t at = options.find(known);
    EXPECT_NE(at, std::string::npos) << options;
    if (at != std::string::npos) options.erase(at, known.size());
  }
  return options;
}

TEST(DiscoveryDocumentTest, WhereToAsk) {
  EXPECT_EQ(OpenidConfigurationUrl(kIssuer), kOpenidUrl);
  EXPECT_EQ(OauthMetadataUrl(kIssuer), kOauthUrl);
  for (const char* issuer : {"https://idp.example:8443", "https://idp.example:8443/"}) {
    EXPECT_EQ(OpenidConfigurationUrl(issuer), "https://idp.example:8443/.well-known/openid-configuration");
    EXPECT_EQ(OauthMetadataUrl(issuer), "https://idp.example:8443/.well-known/oauth-authorization-server");
  }
  EXPECT_EQ(OpenidConfigurationUrl("https://idp.example/a/b/"),
            "https://idp.example/a/b/.well-known/openid-configuration");
  EXPECT_EQ(OauthMetadataUrl("https://idp.example/a/b/"),
            "https://idp.example/.well-known/oauth-authorization-server/a/b");
}

TEST(DiscoveryDocumentTest, WhatAnIssuerIs) {
  for (const char* issuer : {"https://idp.example", "https://idp.example/a", "http://127.0.0.1:3000", "http://[::1]/"})
    EXPECT_TRUE(IsIssuer(issuer, false)) << issuer;
  for (const char* issuer : {"", "idp.example", "https://idp.example/?a=b", "https://idp.example/?",
                             "https://idp.example/#a", "https://u@idp.example/", "file:///etc/passwd", "https://"})
    EXPECT_FALSE(IsIssuer(issuer, true)) << issuer;
  EXPECT_FALSE(IsIssuer("http://idp.example", false));
  EXPECT_TRUE(IsIssuer("http://idp.example", true));
}

TEST(DiscoveryDocumentTest, BecomesOptions) {
  const std::string document =
      Document(std::string(kToken) +
               R"(,"authorization_endpoint":"https://idp.example/auth?a=b","revocation_endpoint":"https://r.example/",
          "introspection_endpoint":"https://i.example/","userinfo_endpoint":"https://u.example/",
          "jwks_uri":"https://k.example/jwks","registration_endpoint":"https://x.example/","scopes_supported":[])");
  const std::string options = Discovered(document);
  const auto read = ParseSecretJson(options);
  ASSERT_TRUE(read.has_value()) << options;
  EXPECT_EQ(read->size(), 7u);
  const auto text = [&](const char* name) {
    const SecretJson* member = FindMember(*read, name);
    return member == nullptr ? std::string("(none)") : std::string(TextOf(*member).value_or("(no text)"));
  };
  EXPECT_EQ(text("issuer"), kIssuer);
  EXPECT_EQ(text("token_endpoint"), "https://idp.example/token");
  EXPECT_EQ(text("authorization_endpoint"), "https://idp.example/auth?a=b");
  EXPECT_EQ(text("revocation_endpoint"), "https://r.example/");
  EXPECT_EQ(text("introspection_endpoint"), "https://i.example/");
  EXPECT_EQ(text("userinfo_endpoint"), "https://u.example/");
  EXPECT_EQ(text("jwks_uri"), "https://k.example/jwks");
  // It is read as options are.
  EXPECT_TRUE(ParseProviderOptions(options, false));
}

TEST(DiscoveryDocumentTest, LeavesOutWhatCannotBeTrusted) {
  for (const char* url : {"\"http://idp.example/jwks\"", "\"ftp://idp.example/\"", "\"\"", "null", "7", "[]",
                          "\"http://127.0.0.1:3000/jwks\"", "\"https://localhost/jwks\"", "\"https://[::1]/jwks\"",
                          "\"/jwks\"", "\"https://idp.example/#a\"", "\"https://u:p@idp.example/\""}) {
    EXPECT_EQ(Besides("\"jwks_uri\":" + std::string(url)), "{,}") << url;
  }
  EXPECT_NE(Besides(R"("jwks_uri":"http://idp.example/jwks")", {kIssuer, true, true}), "{,}");
}

TEST(DiscoveryDocumentTest, AnIssuerOfThisMachineMayNameIt) {
  const std::string document =
      R"({"issuer":"http://127.0.0.1:3000","token_endpoint":"http://127.0.0.1:3000/token","jwks_uri":"http://[::1]/k"})";
  const DiscoveredOptions read = ReadDiscoveryDocument(document, {"http://127.0.0.1:3000"});
  EXPECT_NE(read.options.find("\"http://127.0.0.1:3000/token\""), std::string::npos) << read.message;
  EXPECT_NE(read.options.find("\"http://[::1]/k\""), std::string::npos);
}

// RFC 9207 section 3: false unless it says otherwise.
TEST(DiscoveryDocumentTest, WhetherSignInsBringTheIssuer) {
  const std::string member = R"("authorization_response_iss_parameter_supported":)";
  EXPECT_EQ(Besides(member + "true"), "{" + member + "true,,}");
  for (const char* value : {"false", "null", "\"true\"", "1", "{}"}) EXPECT_EQ(Besides(member + value), "{,}") << value;
}

TEST(DiscoveryDocumentTest, AClientKeepsItsMethod) {
  const std::string methods = R"("token_endpoint_auth_methods_supported":["client_secret_post","none"])";
  EXPECT_NE(Besides(methods).find("client_secret_post"), std::string::npos);
  DiscoveryRules rules{kIssuer};
  rules.auth_method = "client_secret_jwt";
  EXPECT_NE(Besides(methods, rules).find("client_secret_jwt"), std::string::npos);
}

TEST(DiscoveryDocumentTest, TheIssuerIsTheOneThatWasAsked) {
  for (const char* issuer : {"https://idp.example", "https://idp.example/tenant2", "https://IDP.example/tenant", ""}) {
    EXPECT_EQ(Discovered(Document(kToken, issuer)), "issuer_mismatch") << issuer;
  }
  EXPECT_EQ(Discovered("{" + std::string(kToken) + "}"), "issuer_mismatch");
  EXPECT_EQ(Discovered("{\"issuer\":7," + std::string(kToken) + "}"), "issuer_mismatch");
  const auto by_slash = ReadDiscoveryDocument(Document(kToken, std::string(kIssuer) + "/"), {kIssuer});
  EXPECT_EQ(by_slash.message, "the issuer in the document differs by a slash at its end; ask for that one");
}

TEST(DiscoveryDocumentTest, UnusableOnes) {
  for (const std::string& document :
       {std::string(), std::string("<html>"), std::string("[]"), Document(""),
        Document(R"("token_endpoint":"http://idp.example/token")"), Document(std::string(kToken) + "," + kToken),
        Document(std::string(kToken) + R"(,"jwks_uri":"a","jwks_uri":"b")")}) {
    EXPECT_EQ(Discovered(document), "document_unusable") << document;
  }
}

TEST(DiscoveryDocumentTest, ChoosesHowTheClientAuthenticates) {
  const auto chosen = [](const std::string& methods, bool has_secret) {
    const std::string options =
        Discovered(Document(kToken + (methods.empty() ? "" : ",\"token_endpoint_auth_methods_supported\":" + methods)),
                   {kIssuer, has_secret});
    const auto read = ParseSecretJson(options);
    const SecretJson* member = FindMember(*read, "token_endpoint_auth_method");
    return member == nullptr ? std::string("(none)") : std::string(TextOf(*member).value_or(""));
  };
  EXPECT_EQ(chosen("", true), "(none)");
  EXPECT_EQ(chosen("\"client_secret_post\"", true), "(none)");
  EXPECT_EQ(chosen(R"(["client_secret_post","client_secret_basic"])", true), "client_secret_basic");
  EXPECT_EQ(chosen(R"(["none","client_secret_post"])", true), "client_secret_post");
  EXPECT_EQ(chosen(R"(["none","private_key_jwt"])", true), "(none)");
  EXPECT_EQ(chosen(R"(["private_key_jwt",7])", true), "(none)");
  EXPECT_EQ(chosen(R"(["client_secret_basic"])", false), "none");
  EXPECT_EQ(chosen("", false), "none");
}

class DiscoveriesTest : public testing::Test {
 protected:
  DiscoveriesTest() : discoveries_(transport_, clock_) {}

  void Begin(const std::string& issuer = kIssuer, uint64_t id = 1) {
    DiscoveryRequest request;
    request.id = id;
    request.provider = provider_;
    request.issuer = issuer;
    discoveries_.Begin(std::move(request));
  }

  DiscoveryResult Finish() {
    discoveries_.Turn();
    std::vector<DiscoveryResult> finished = discoveries_.TakeFinished();
    EXPECT_EQ(finished.size(), 1u);
    EXPECT_EQ(discoveries_.unfinished(), 0u);
    if (finished.size() != 1) return {};
    EXPECT_EQ(finished[0].found, finished[0].failure.empty());
    EXPECT_EQ(finished[0].found, finished[0].message.empty());
    EXPECT_EQ(finished[0].found, !finished[0].options.empty());
    return std::move(finished[0]);
  }

  AnsweringTransport transport_;
  FakeClock clock_;
  std::shared_ptr<Provider> provider_ = std::make_shared<Provider>();
  Discoveries discoveries_;
};

TEST_F(DiscoveriesTest, AsksOpenidFirst) {
  provider_->options.ca_file = "/etc/own.pem";
  Begin(kIssuer, 7);
  ASSERT_NE(transport_.Find(kOpenidUrl), nullptr);
  EXPECT_EQ(transport_.Find(kOpenidUrl)->method, "GET");
  EXPECT_EQ(transport_.Find(kOpenidUrl)->ca_file, "/etc/own.pem");
  EXPECT_EQ(discoveries_.unfinished(), 1u);
  clock_.Advance(kSecond);
  transport_.Answer(kOpenidUrl, 200, Document(kToken));
  const DiscoveryResult result = Finish();
  EXPECT_EQ(result.id, 7u);
  EXPECT_TRUE(result.found);
  EXPECT_EQ(result.duration, kSecond);
  EXPECT_EQ(result.options, Document(kToken));
}

TEST_F(DiscoveriesTest, ThenOauth) {
  for (const int status : {404, 400, 403}) {
    Begin();
    ASSERT_TRUE(transport_.Answer(kOpenidUrl, status, ""));
    discoveries_.Turn();
    ASSERT_TRUE(transport_.Answer(kOauthUrl, 200, Document(kToken)));
    EXPECT_TRUE(Finish().found);
  }
}

TEST_F(DiscoveriesTest, NeitherIsThere) {
  Begin();
  ASSERT_TRUE(transport_.Answer(kOpenidUrl, 404, ""));
  discoveries_.Turn();
  ASSERT_TRUE(transport_.Answer(kOauthUrl, 404, ""));
  EXPECT_EQ(Finish().failure, "not_found");
  EXPECT_EQ(transport_.urls.size(), 2u);
}

TEST_F(DiscoveriesTest, AFailureIsNoAnswer) {
  for (const int status : {500, 503, 429}) {
    Begin();
    ASSERT_TRUE(transport_.Answer(kOpenidUrl, status, ""));
    EXPECT_EQ(Finish().failure, "provider_unavailable");
  }
  Begin();
  ASSERT_TRUE(transport_.Answer(kOpenidUrl, MakeTransportFailure(TransportFailure::kNotSent)));
  const DiscoveryResult result = Finish();
  EXPECT_EQ(result.failure, "provider_unavailable");
  EXPECT_EQ(result.message, "the issuer gives no discovery document: the connection was lost");
  EXPECT_EQ(transport_.CountOf(kOauthUrl), 0u);
}

TEST_F(DiscoveriesTest, OtherAnswers) {
  Begin();
  ASSERT_TRUE(transport_.Answer(kOpenidUrl, 302, ""));
  EXPECT_EQ(Finish().failure, "document_unusable");
  Begin();
  ASSERT_TRUE(transport_.Answer(kOpenidUrl, 200, "<html>"));
  EXPECT_EQ(Finish().failure, "document_unusable");
  Begin();
  ASSERT_TRUE(transport_.Answer(kOpenidUrl, 200, Document(kToken, "https://attacker.example")));
  EXPECT_EQ(Finish().failure, "issuer_mismatch");
}

TEST_F(DiscoveriesTest, NothingIsAskedOfWhatIsNoIssuer) {
  Begin("http://idp.example");
  EXPECT_EQ(Finish().failure, "issuer_invalid");
  EXPECT_TRUE(transport_.urls.empty());
}

TEST_F(DiscoveriesTest, PlainHttpNeedsProviderAndAdministrator) {
  HttpDefaults defaults;
  defaults.allow_insecure_http = true;
  discoveries_.Configure(defaults);
  Begin("http://idp.example");
  EXPECT_EQ(Finish().failure, "issuer_invalid");
  provider_->options.allow_insecure_http = true;
  Begin("http://idp.example");
  ASSERT_TRUE(transport_.Answer("http://idp.example/.well-known/openid-configuration", 200,
                                Document(R"("token_endpoint":"http://idp.example/t")", "http://idp.example")));
  EXPECT_TRUE(Finish().found);
}

TEST_F(DiscoveriesTest, Abandoned) {
  Begin();
  discoveries_.Abandon();
  EXPECT_EQ(Finish().failure, "shutting_down");
  // What is answered afterwards finds nobody.
  ASSERT_TRUE(transport_.Answer(kOpenidUrl, 200, Document(kToken)));
  discoveries_.Turn();
  EXPECT_TRUE(discoveries_.TakeFinished().empty());
  Begin();
  EXPECT_EQ(Finish().failure, "shutting_down");
}

}  // namespace
}  // namespace token_refresh
