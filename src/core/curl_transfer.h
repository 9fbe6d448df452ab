// One HTTP exchange on a libcurl easy handle, used again for one request after
// another. Private to CurlTransport, which owns it and adds handle() to its
// multi handle between Start() and Finish(). The static functions are libcurl's
// callbacks: they never throw.
//
// libcurl copies what it sends and receives into buffers of its own and frees
// them without wiping; everything that this class holds itself is wiped.
#pragma once

#include <curl/curl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/address_rules.h"
#include "core/epoll_set.h"
#include "core/header_list.h"
#include "core/http.h"

namespace token_refresh {

class CurlTransfer {
 public:
  // Null when libcurl has no memory. sockets must outlive every connection, idle ones too.
  static std::unique_ptr<CurlTransfer> Create(EpollSet& sockets, Micros idle_connection_age);
  ~CurlTransfer();
  CurlTransfer(const CurlTransfer&) = delete;
  CurlTransfer& operator=(const CurlTransfer&) = delete;

  // Takes the request over. When it returns false the request is refused: Finish(CURLE_OK)
  // gives the reason, and the transfer is not to be used again.
  bool Start(uint64_t id, HttpRequest request);
  // Ends the exchange with libcurl's verdict. The handle must be off the multi handle.
  HttpCompletion Finish(CURLcode verdict);

  CURL* handle() const { return easy_; }
  static CurlTransfer* FromHandle(CURL* easy);

  size_t slot = 0;  // the owner's note where it keeps this transfer

 private:
  CurlTransfer(CURL* easy, EpollSet& sockets, Micros idle_connection_age)
      : easy_(easy), sockets_(sockets), idle_connection_age_(idle_connection_age) {}

  bool SetFixedOptions();
  bool Renew();
  bool SetRequestOptions();
  bool SetTrust();
  bool SetUrl();
  const char* WhyRefused() const;
  TransportFailure Classify(CURLcode verdict) const;
  std::string Describe(CURLcode verdict) const;
  void TakeHeaderLine(std::string_view line);

  bool IsRefused(const char* reason);

  static int OnSend(void* self, char* address, char*, int, int) noexcept;
  static size_t OnHeader(char* data, size_t size, size_t count, void* self) noexcept;
  static size_t OnBody(char* data, size_t size, size_t count, void* self) noexcept;
  static curl_socket_t OnOpenSocket(void* self, curlsocktype, curl_sockaddr* address) noexcept;
  static int OnCloseSocket(void* sockets, curl_socket_t fd) noexcept;

  CURL* const easy_;
  EpollSet& sockets_;
  const Micros idle_connection_age_;
  std::string default_ca_file_, default_ca_path_;  // as libcurl was built

  uint64_t id_ = 0;
  HttpRequest request_;                     // url and files stay after Finish(): the handle is still set to them
  bool secure_ = false, loopback_ = false;  // of request_.url
  HeaderList headers_;
  HttpResponse response_;
  size_t header_bytes_ = 0;
  int times_sent_ = 0;
  bool in_headers_ = true;
  bool too_large_ = false;
  bool cut_short_ = false;
  const char* refused_address_ = nullptr;  // why an address of the host was not connected to, or not asked
};

}  // namespace token_refresh
