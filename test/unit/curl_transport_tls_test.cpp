#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>

#include "http_driver.h"
#include "loopback_server.h"

namespace token_refresh::test {
namespace {

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

struct Identity {
  std::unique_ptr<EVP_PKEY, Free> key{EVP_EC_gen("P-256")};
  std::unique_ptr<X509, Free> certificate{X509_new()};
};

void AddExtension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  ASSERT_NE(extension, nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// A certificate for names, signed by issuer, or an authority that signs itself. lifetime in seconds from now.
Identity MakeIdentity(const char* common_name, const char* names, const Identity* issuer, long lifetime = 3600) {
  Identity made;
  X509* certificate = made.certificate.get();
  X509_set_version(certificate, X509_VERSION_3);
  static std::atomic<long> serial = 1;
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -7200);
  X509_gmtime_adj(X509_getm_notAfter(certificate), lifetime);
  X509_set_pubkey(certificate, made.key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(common_name), -1, -1, 0);
  X509* parent = issuer ? issuer->certificate.get() : certificate;
  X509_set_issuer_name(certificate, X509_get_subject_name(parent));
  if (issuer == nullptr) AddExtension(certificate, parent, NID_basic_constraints, "critical,CA:TRUE");
  if (names != nullptr) AddExtension(certificate, parent, NID_subject_alt_name, names);
  EXPECT_GT(X509_sign(certificate, issuer ? issuer->key.get() : made.key.get(), EVP_sha256()), 0);
  return made;
}

// Serves HTTP/1.1 over TLS with one identity.
class TlsServer {
 public:
  explicit TlsServer(const Identity& identity, std::string answer = OkAnswer("secure"), int max_version = 0)
      : context_(SSL_CTX_new(TLS_server_method())), answer_(std::move(answer)) {
    SSL_CTX_use_certificate(context_.get(), identity.certificate.get());
    SSL_CTX_use_PrivateKey(context_.get(), identity.key.get());
    if (max_version != 0) {
      SSL_CTX_set_security_level(context_.get(), 0);
      SSL_CTX_set_min_proto_version(context_.get(), TLS1_VERSION);
      SSL_CTX_set_max_proto_version(context_.get(), max_version);
    }
  }

  // Asks clients for a certificate of this authority, and answers with the name on it.
  void AskForCertificate(const Identity& authority) {
    asks_ = true;
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context_.get()), authority.certificate.get());
    SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_session_id_context(context_.get(), reinterpret_cast<const unsigned char*>("test"), 4);
  }

  std::string Url(const char* host = "127.0.0.1") const {
    return "https://" + std::string(host) + ":" + std::to_string(server_.port()) + "/token";
  }
  int requests() const { return requests_; }
  int accepted() const { return server_.accepted(); }

 private:
  static std::string PeerName(SSL* ssl) {
    const std::unique_ptr<X509, Free> certificate(SSL_get1_peer_certificate(ssl));
    if (certificate == nullptr) return "nobody";
    char name[64] = "";
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate.get()), NID_commonName, name, sizeof name);
    return name;
  }

  void Serve(Connection& connection) {
    const std::unique_ptr<SSL, Free> ssl(SSL_new(context_.get()));
    SSL_set_fd(ssl.get(), connection.fd());
    if (SSL_accept(ssl.get()) != 1) return;
    std::string unread;
    char bytes[4096];
    for (int count; (count = SSL_read(ssl.get(), bytes, sizeof bytes)) > 0;) {
      unread.append(bytes, count);
      if (!unread.ends_with(kBody)) continue;
      unread.clear();
      ++requests_;
      const std::string answer = asks_ ? OkAnswer(PeerName(ssl.get())) : answer_;
      if (SSL_write(ssl.get(), answer.data(), static_cast<int>(answer.size())) <= 0) return;
    }
  }

 public:
  static constexpr std::string_view kBody = "grant_type=refresh_token&end";

 private:
  const std::unique_ptr<SSL_CTX, Free> context_;
  const std::string answer_;
  bool asks_ = false;
  std::atomic<int> requests_ = 0;
  LoopbackServer server_{[this](Connection& connection) { Serve(connection); }};
};

// An authority's certificate in a file, as ca_file wants it.
class AuthorityFile {
 public:
  explicit AuthorityFile(const Identity& authority) {
    const int fd = mkstemp(path_);
    FILE* file = fdopen(fd, "w");
    PEM_write_X509(file, authority.certificate.get());
    fclose(file);
  }
  ~AuthorityFile() { unlink(path_); }
  std::string path() const { return path_; }

 private:
  char path_[64] = "/tmp/token_refresh_test_ca_XXXXXX";
};

// A client's certificate and key, each in a file.
class ClientFiles {
 public:
  explicit ClientFiles(const Identity& client) : certificate_(client) {
    const int fd = mkstemp(key_path_);
    FILE* file = fdopen(fd, "w");
    PEM_write_PrivateKey(file, client.key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    fclose(file);
  }
  ~ClientFiles() { unlink(key_path_); }
  std::string certificate() const { return certificate_.path(); }
  std::string key() const { return key_path_; }

 private:
  AuthorityFile certificate_;
  char key_path_[64] = "/tmp/token_refresh_test_key_XXXXXX";
};

class CurlTransportTlsTest : public testing::Test {
 protected:
  // The server's thread may write to a connection that the client has closed.
  static void SetUpTestSuite() { signal(SIGPIPE, SIG_IGN); }

  HttpResponse Ask(const std::string& url, const std::string& ca_file) {
    HttpRequest request = PostTo(url, TlsServer::kBody);
    request.ca_file = ca_file;
    return Exchange(*transport_, std::move(request));
  }

  std::string PeerSeen(const std::string& url, const ClientFiles* client) {
    HttpRequest request = PostTo(url, TlsServer::kBody);
    request.ca_file = trusted_.path();
    if (client != nullptr) {
      request.client_certificate = client->certificate();
      request.client_key = client->key();
    }
    const HttpResponse response = Exchange(*transport_, std::move(request));
    return response.failure == TransportFailure::kNone ? std::string(response.body.view()) : response.failure_message;
  }

  const Identity authority_ = MakeIdentity("Test Authority", nullptr, nullptr);
  const Identity local_ = MakeIdentity("local", "IP:127.0.0.1,DNS:localhost", &authority_);
  const AuthorityFile trusted_{authority_};
  std::unique_ptr<CurlTransport> transport_ = MakeTransport();
};

TEST_F(CurlTransportTlsTest, TrustedServerAnswersOnOneConnection) {
  TlsServer server(local_);
  for (int i = 0; i < 5; ++i) {
    const HttpResponse response = Ask(server.Url(), trusted_.path());
    EXPECT_EQ(response.failure, TransportFailure::kNone) << response.failure_message;
    EXPECT_EQ(response.body.view(), "secure");
  }
  EXPECT_EQ(server.accepted(), 1);
  EXPECT_EQ(Ask(server.Url("localhost"), trusted_.path()).status, 200);
}

TEST_F(CurlTransportTlsTest, ManyAtOnce) {
  TlsServer server(local_);
  for (int i = 0; i < 40; ++i) {
    HttpRequest request = PostTo(server.Url(), TlsServer::kBody);
    request.ca_file = trusted_.path();
    transport_->Submit(i, std::move(request));
  }
  for (const auto& [id, response] : CollectAll(*transport_, 40)) EXPECT_EQ(response.status, 200) << id;
  EXPECT_EQ(server.requests(), 40);
}

TEST_F(CurlTransportTlsTest, UnknownAuthorityIsNotSentAnything) {
  TlsServer server(local_);
  const HttpResponse response = Ask(server.Url(), "");
  EXPECT_EQ(response.failure, TransportFailure::kNotSent);
  EXPECT_THAT(response.failure_message, testing::HasSubstr("unable to get local issuer certificate"));
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(CurlTransportTlsTest, TrustOfOneRequestDoesNotReachTheNext) {
  TlsServer server(local_);
  EXPECT_EQ(Ask(server.Url(), trusted_.path()).failure, TransportFailure::kNone);
  EXPECT_EQ(Ask(server.Url(), "").failure, TransportFailure::kNotSent);
  EXPECT_EQ(Ask(server.Url(), trusted_.path()).failure, TransportFailure::kNone);
  const Identity other_authority = MakeIdentity("Other Authority", nullptr, nullptr);
  const AuthorityFile other(other_authority);
  EXPECT_EQ(Ask(server.Url(), other.path()).failure, TransportFailure::kNotSent);
  EXPECT_EQ(server.requests(), 2);
}

TEST_F(CurlTransportTlsTest, CertificateForAnotherNameIsNotSentAnything) {
  const Identity elsewhere = MakeIdentity("elsewhere", "DNS:elsewhere.invalid", &authority_);
  TlsServer server(elsewhere);
  EXPECT_EQ(Ask(server.Url(), trusted_.path()).failure, TransportFailure::kNotSent);
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(CurlTransportTlsTest, ExpiredCertificateIsNotSentAnything) {
  const Identity expired = MakeIdentity("local", "IP:127.0.0.1", &authority_, -3600);
  TlsServer server(expired);
  const HttpResponse response = Ask(server.Url(), trusted_.path());
  EXPECT_EQ(response.failure, TransportFailure::kNotSent);
  EXPECT_THAT(response.failure_message, testing::HasSubstr("certificate has expired"));
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(CurlTransportTlsTest, ProtocolsBeforeTls12AreRefused) {
  TlsServer server(local_, OkAnswer("old"), TLS1_1_VERSION);
  EXPECT_EQ(Ask(server.Url(), trusted_.path()).failure, TransportFailure::kNotSent);
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(CurlTransportTlsTest, MissingAuthorityFileIsNotSentAnything) {
  TlsServer server(local_);
  EXPECT_EQ(Ask(server.Url(), "/nonexistent/ca.pem").failure, TransportFailure::kNotSent);
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(CurlTransportTlsTest, AConnectionBelongsToItsCertificate) {
  TlsServer server(local_);
  server.AskForCertificate(authority_);
  const Identity one = MakeIdentity("client one", nullptr, &authority_);
  const Identity two = MakeIdentity("client two", nullptr, &authority_);
  const ClientFiles files_of_one(one), files_of_two(two);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(PeerSeen(server.Url(), &files_of_one), "client one");
    EXPECT_EQ(PeerSeen(server.Url(), &files_of_two), "client two");
    EXPECT_EQ(PeerSeen(server.Url(), nullptr), "nobody");
  }
  // Each has a connection of its own, which is kept.
  EXPECT_EQ(server.accepted(), 3);
}

TEST_F(CurlTransportTlsTest, ACertificateThatCannotBeReadIsNotSentAnything) {
  TlsServer server(local_);
  server.AskForCertificate(authority_);
  HttpRequest request = PostTo(server.Url(), TlsServer::kBody);
  request.ca_file = trusted_.path();
  request.client_certificate = "/nonexistent/client.pem";
  EXPECT_EQ(Exchange(*transport_, std::move(request)).failure, TransportFailure::kNotSent);
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(CurlTransportTlsTest, AKeyOfAnotherCertificateIsNotSentAnything) {
  TlsServer server(local_);
  server.AskForCertificate(authority_);
  const ClientFiles one(MakeIdentity("client one", nullptr, &authority_));
  const ClientFiles two(MakeIdentity("client two", nullptr, &authority_));
  HttpRequest request = PostTo(server.Url(), TlsServer::kBody);
  request.ca_file = trusted_.path();
  request.client_certificate = one.certificate();
  request.client_key = two.key();
  EXPECT_EQ(Exchange(*transport_, std::move(request)).failure, TransportFailure::kNotSent);
  EXPECT_EQ(server.requests(), 0);
}

}  // namespace
}  // namespace token_refresh::test
