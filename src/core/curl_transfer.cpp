#include "core/curl_transfer.h"

#include <openssl/x509.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "core/ascii.h"
#include "core/curl_setopt.h"
#include "core/curl_transport.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxShownHost = 200;
// A request whose kept connection turns out to be dead is sent once more, see OnSend().
constexpr int kMaxTimesSent = 2;

constexpr long kFirstFinalStatus = 200;

// How libcurl says that one header line is longer than it can take (100 kB).
bool IsHeaderLineLimit(CURLcode verdict) {
#if LIBCURL_VERSION_NUM >= 0x080600
  if (verdict == CURLE_TOO_LARGE) return true;
#endif
  return verdict == CURLE_OUT_OF_MEMORY;
}

// In any case of text; prefix is lower case.
bool HasPrefix(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), text.begin(), [](char a, char b) { return a == AsciiLower(b); });
}

// What of a URL may be shown: no user, path or query, which may hold secrets.
std::string_view HostAndPort(std::string_view url) {
  const size_t scheme = url.find("://");
  if (scheme != std::string_view::npos) url.remove_prefix(scheme + 3);
  url = url.substr(0, url.find_first_of("/?#\\"));
  if (const size_t user = url.rfind('@'); user != std::string_view::npos) url.remove_prefix(user + 1);
  return url.substr(0, kMaxShownHost);
}

}  // namespace

std::unique_ptr<CurlTransfer> CurlTransfer::Create(EpollSet& sockets, Micros idle_connection_age) {
  CURL* easy = curl_easy_init();
  if (easy == nullptr) return nullptr;
  std::unique_ptr<CurlTransfer> transfer(new CurlTransfer(easy, sockets, idle_connection_age));
  if (!transfer->SetFixedOptions()) return nullptr;
  return transfer;
}

CurlTransfer::~CurlTransfer() { curl_easy_cleanup(easy_); }

CurlTransfer* CurlTransfer::FromHandle(CURL* easy) {
  char* self = nullptr;
  curl_easy_getinfo(easy, CURLINFO_PRIVATE, &self);
  return reinterpret_cast<CurlTransfer*>(self);
}

bool CurlTransfer::SetFixedOptions() {
  const char* text = nullptr;
  if (curl_easy_getinfo(easy_, CURLINFO_CAINFO, &text) == CURLE_OK && text != nullptr) default_ca_file_ = text;
  if (curl_easy_getinfo(easy_, CURLINFO_CAPATH, &text) == CURLE_OK && text != nullptr) default_ca_path_ = text;
  void* self = this;
  void* sockets = &sockets_;
  const long idle_seconds = std::max<long>(1, static_cast<long>(idle_connection_age_ / kSecond));
  return Set(easy_, CURLOPT_PRIVATE, self) && Set(easy_, CURLOPT_NOSIGNAL, 1) &&
         // A look-up that hangs must not hold up a timeout, or the shutdown, until its thread returns.
         Set(easy_, CURLOPT_QUICK_EXIT, 1) &&
         // Nothing of the environment, and nothing but the request itself, decides where it goes.
         Set(easy_, CURLOPT_PROTOCOLS_STR, "http,https") && Set(easy_, CURLOPT_PROXY, "") &&
         Set(easy_, CURLOPT_FOLLOWLOCATION, 0) && Set(easy_, CURLOPT_DISALLOW_USERNAME_IN_URL, 1) &&
         Set(easy_, CURLOPT_SSL_VERIFYPEER, 1) && Set(easy_, CURLOPT_SSL_VERIFYHOST, 2) &&
         Set(easy_, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2)) &&
         Set(easy_, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS)) &&
         Set(easy_, CURLOPT_TCP_NODELAY, 1) && Set(easy_, CURLOPT_MAXAGE_CONN, idle_seconds) &&
         // No content coding is asked for and none is undone: a body is never larger than what was sent.
         Set(easy_, CURLOPT_ACCEPT_ENCODING, static_cast<char*>(nullptr)) &&
         Set(easy_, CURLOPT_PREREQFUNCTION, &OnSend) && Set(easy_, CURLOPT_PREREQDATA, self) &&
         Set(easy_, CURLOPT_HEADERFUNCTION, &OnHeader) && Set(easy_, CURLOPT_HEADERDATA, self) &&
         Set(easy_, CURLOPT_WRITEFUNCTION, &OnBody) && Set(easy_, CURLOPT_WRITEDATA, self) &&
         Set(easy_, CURLOPT_OPENSOCKETFUNCTION, &OnOpenSocket) && Set(easy_, CURLOPT_OPENSOCKETDATA, self) &&
         Set(easy_, CURLOPT_CLOSESOCKETFUNCTION, &OnCloseSocket) && Set(easy_, CURLOPT_CLOSESOCKETDATA, sockets);
}

// libcurl 7 counts the kept connections that have died under a handle over all its requests, and fails with the sixth.
bool CurlTransfer::Renew() {
  curl_easy_reset(easy_);
  return SetFixedOptions();
}

bool CurlTransfer::Start(uint64_t id, HttpRequest request) {
  const bool was_resent = times_sent_ > 1;
  id_ = id;
  response_ = HttpResponse{};
  header_bytes_ = 0;
  times_sent_ = 0;
  in_headers_ = true;
  too_large_ = false;
  cut_short_ = false;
  refused_address_ = nullptr;
  const bool new_url = was_resent || request.url != request_.url;
  const bool new_trust = was_resent || request.ca_file != request_.ca_file ||
                         request.client_certificate != request_.client_certificate ||
                         request.client_key != request_.client_key;
  request_ = std::move(request);
  if (new_url) {  // most requests go where the one before went
    secure_ = HasPrefix(request_.url, "https://");
    loopback_ = IsLoopbackUrl(request_.url);
  }
  const char* reason = WhyRefused();
  if (reason == nullptr && !headers_.Assign(request_.headers)) reason = "a request header is malformed";
  if (reason == nullptr &&
      !((!was_resent || Renew()) && (!(new_url || !request_.query.empty()) || SetUrl()) && (!new_trust || SetTrust()) && SetRequestOptions())) {
    reason = "libcurl does not accept the request";
  }
  if (reason == nullptr) return true;
  response_.failure = TransportFailure::kRefused;
  response_.failure_message.append(reason).append(" (").append(HostAndPort(request_.url)).append(")");
  return false;
}

const char* CurlTransfer::WhyRefused() const {
  if (!secure_) {
    if (!HasPrefix(request_.url, "http://")) return "only http and https are spoken";
    if (!request_.allow_insecure_http && !loopback_) return "plain http is allowed to loopback only";
  }
  if (request_.method != "POST" && request_.method != "GET") return "only POST and GET are supported";
  return nullptr;
}

HttpCompletion CurlTransfer::Finish(CURLcode verdict) {
  if (response_.failure == TransportFailure::kNone) {
    curl_off_t duration = 0;
    curl_easy_getinfo(easy_, CURLINFO_TOTAL_TIME_T, &duration);
    response_.duration = duration;
    long status = 0;
    curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
    response_.status = static_cast<int>(status);
    // libcurl takes an answer that ends inside its headers, or after an interim one, for complete.
    cut_short_ = in_headers_ || status < kFirstFinalStatus;
    too_large_ = too_large_ || (times_sent_ > 0 && in_headers_ && IsHeaderLineLimit(verdict));
    response_.failure = Classify(verdict);
  }
  if (response_.failure != TransportFailure::kNone && response_.failure_message.empty()) {
    response_.failure_message = Describe(verdict);
  }
  if (response_.failure == TransportFailure::kTooLarge) response_.body.Wipe();
  request_.body.Wipe();
  if (!request_.query.empty()) {
    request_.query.Wipe();
    SetUrl();
  }
  request_.headers.clear();
  headers_.Wipe();
  return HttpCompletion{id_, std::move(response_)};
}

TransportFailure CurlTransfer::Classify(CURLcode verdict) const {
  if (verdict == CURLE_OK && !cut_short_) return TransportFailure::kNone;
  if (too_large_) return TransportFailure::kTooLarge;
  // Whatever went wrong after the request had begun to go out, the provider may have acted on it.
  if (times_sent_ > 0) return TransportFailure::kMaybeHandled;
  if (refused_address_ != nullptr) return TransportFailure::kRefused;
  switch (verdict) {
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_LOGIN_DENIED:  // a user name in the URL
      return TransportFailure::kRefused;
    default:
      return TransportFailure::kNotSent;
  }
}

// Fixed texts of the libraries and the system only: libcurl's error buffer may quote the answer.
std::string CurlTransfer::Describe(CURLcode verdict) const {
  std::string message;
  if (too_large_) {
    message = "the answer is too large";
  } else if (times_sent_ == 0 && refused_address_ != nullptr) {
    message.append("the host has an address that is not asked: ").append(refused_address_);
  } else if (verdict == CURLE_OK) {
    message = "the answer ended before its headers did";
  } else if (verdict == CURLE_ABORTED_BY_CALLBACK) {
    message = "kept connections died before an answer arrived";
  } else {
    message = curl_easy_strerror(verdict);
  }
  long detail = 0;
  if (verdict == CURLE_PEER_FAILED_VERIFICATION) {
    curl_easy_getinfo(easy_, CURLINFO_SSL_VERIFYRESULT, &detail);
    if (detail != X509_V_OK) message.append(": ").append(X509_verify_cert_error_string(detail));
  } else if (verdict == CURLE_COULDNT_CONNECT) {
    curl_easy_getinfo(easy_, CURLINFO_OS_ERRNO, &detail);
    if (detail != 0) message.append(": ").append(std::strerror(static_cast<int>(detail)));
  }
  return message.append(" (").append(HostAndPort(request_.url)).append(")");
}

bool CurlTransfer::IsRefused(const char* reason) {
  if (reason != nullptr) refused_address_ = reason;
  return reason != nullptr;
}

// Called each time before the request goes out. A kept connection may have been made for a request that may go
// where this one may not: libcurl finds it by the name of the host, and OnOpenSocket() is not asked.
//
// libcurl sends a request again, on another connection, when a kept one turns out to be closed before a byte of an
// answer came. Nearly always the server closed it for being idle and never read the request, so giving up would delay
// a refresh for nothing; but a server that died while it handled the request looks the same. So it is allowed once,
// and only noted: an answer to the second sending that calls a rotated refresh token dead may be the echo of the first.
int CurlTransfer::OnSend(void* self, char* address, char*, int, int) noexcept {
  auto* transfer = static_cast<CurlTransfer*>(self);
  const bool special = transfer->request_.allow_special_addresses;
  // A connection to the unspecified address has a loopback address as its peer.
  const AddressRules rules{transfer->loopback_ || special, special};
  if (transfer->IsRefused(WhyAddressRefused(address, rules))) return CURL_PREREQFUNC_ABORT;
  if (transfer->times_sent_ >= (transfer->request_.only_once ? 1 : kMaxTimesSent)) return CURL_PREREQFUNC_ABORT;
  ++transfer->times_sent_;
  transfer->response_.resent = transfer->times_sent_ > 1;
  return CURL_PREREQFUNC_OK;
}

void CurlTransfer::TakeHeaderLine(std::string_view line) {
  if (line.starts_with("HTTP/")) {  // an interim answer (1xx) may have come before this one
    in_headers_ = true;
    response_.content_type.clear();
    response_.retry_after.clear();
    return;
  }
  const size_t colon = line.find(':');
  if (line == "\r\n" || line == "\n") in_headers_ = false;  // what follows the body is a trailer
  if (!in_headers_ || colon == std::string_view::npos) return;
  const std::string_view value = TrimAsciiSpace(line.substr(colon + 1));
  const auto is = [&](std::string_view name) { return colon == name.size() && HasPrefix(line, name); };
  if (is("content-type")) {
    response_.content_type = AsciiLower(TrimAsciiSpace(value.substr(0, value.find(';'))));
  } else if (is("retry-after")) {
    response_.retry_after = value;
  }
}

size_t CurlTransfer::OnHeader(char* data, size_t size, size_t count, void* self) noexcept {
  auto* transfer = static_cast<CurlTransfer*>(self);
  const size_t bytes = size * count;
  transfer->header_bytes_ += bytes;
  if (transfer->header_bytes_ > kMaxResponseHeaderBytes) {
    transfer->too_large_ = true;
    return CURL_WRITEFUNC_ERROR;
  }
  try {
    transfer->TakeHeaderLine({data, bytes});
  } catch (const std::bad_alloc&) {
    return CURL_WRITEFUNC_ERROR;
  }
  return bytes;
}

size_t CurlTransfer::OnBody(char* data, size_t size, size_t count, void* self) noexcept {
  auto* transfer = static_cast<CurlTransfer*>(self);
  const size_t bytes = size * count;
  if (bytes > kMaxResponseBytes - transfer->response_.body.size()) {
    transfer->too_large_ = true;
    return CURL_WRITEFUNC_ERROR;
  }
  try {
    transfer->response_.body.Append({data, bytes});
  } catch (const std::bad_alloc&) {
    return CURL_WRITEFUNC_ERROR;
  }
  return bytes;
}

// The address that is connected to, whatever the name was looked up as before: nobody can name a host and have
// it point to what is not meant to be reached from here.
curl_socket_t CurlTransfer::OnOpenSocket(void* self, curlsocktype, curl_sockaddr* address) noexcept {
  auto* transfer = static_cast<CurlTransfer*>(self);
  const AddressRules rules{transfer->loopback_, transfer->request_.allow_special_addresses};
  if (transfer->IsRefused(WhyAddressRefused(address->addr, rules))) return CURL_SOCKET_BAD;
  return transfer->sockets_.OpenSocket(address->family, address->socktype, address->protocol);
}

int CurlTransfer::OnCloseSocket(void* sockets, curl_socket_t fd) noexcept {
  return static_cast<EpollSet*>(sockets)->CloseSocket(fd);
}

}  // namespace token_refresh
