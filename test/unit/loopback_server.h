// A TCP server on 127.0.0.1 for tests of the HTTP transport: a handler speaks raw
// bytes on each connection, in a thread of its own, so that it can answer in any odd way.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace token_refresh::test {

// One accepted connection. After the handler returns it is closed.
class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {}

  int fd() const { return fd_; }

  // The next request: head and as much body as its Content-Length says. Nothing when the peer is gone.
  std::optional<std::string> ReadRequest() {
    for (;;) {
      const size_t head_end = unread_.find("\r\n\r\n");
      if (head_end != std::string::npos) {
        const size_t whole = head_end + 4 + ContentLength(unread_.substr(0, head_end));
        if (unread_.size() >= whole) {
          std::string request = unread_.substr(0, whole);
          unread_.erase(0, whole);
          return request;
        }
      }
      char bytes[4096];
      const ssize_t count = recv(fd_, bytes, sizeof bytes, 0);
      if (count <= 0) return std::nullopt;
      unread_.append(bytes, count);
    }
  }

  // False when the peer is gone.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      bytes.remove_prefix(count);
    }
    return true;
  }

  // Returns when the peer has closed, or the server stops.
  void AwaitPeerClose() {
    char byte;
    while (recv(fd_, &byte, 1, 0) > 0) {
    }
  }

  // Makes the close that follows a reset.
  void ResetOnClose() {
    const linger now{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }

 private:
  static size_t ContentLength(const std::string& head) {
    const size_t at = head.find("Content-Length: ");
    return at == std::string::npos ? 0 : std::strtoul(head.c_str() + at + 16, nullptr, 10);
  }

  const int fd_;
  std::string unread_;
};

class LoopbackServer {
 public:
  using Handler = std::function<void(Connection&)>;

  explicit LoopbackServer(Handler handler) : handler_(std::move(handler)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = Loopback(0);
    socklen_t length = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener_, 1024) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
      std::abort();
    }
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }

  ~LoopbackServer() {
    stopping_ = true;
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    close(listener_);
    {
      const std::lock_guard lock(mutex_);
      for (int fd : open_) shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
  }

  LoopbackServer(const LoopbackServer&) = delete;
  LoopbackServer& operator=(const LoopbackServer&) = delete;

  int port() const { return port_; }
  std::string Url(std::string_view rest = "/token") const {
    return "http://127.0.0.1:" + std::to_string(port_) + std::string(rest);
  }
  // Connections so far.
  int accepted() const { return accepted_; }

  static sockaddr_in Loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

 private:
  void Accept() {
    for (;;) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (stopping_ || fd < 0) {
        if (fd >= 0) close(fd);
        return;
      }
      ++accepted_;
      const std::lock_guard lock(mutex_);
      open_.push_back(fd);
      threads_.emplace_back([this, fd] { Serve(fd); });
    }
  }

  void Serve(int fd) {
    Connection connection(fd);
    handler_(connection);
    const std::lock_guard lock(mutex_);  // the number may be somebody else's once it is closed
    std::erase(open_, fd);
    close(fd);
  }

  const Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> accepted_ = 0;
  std::mutex mutex_;
  std::vector<int> open_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

// Answers every request of a connection alike.
inline LoopbackServer::Handler Always(std::string answer) {
  return [answer = std::move(answer)](Connection& connection) {
    while (connection.ReadRequest() && connection.Send(answer)) {
    }
  };
}

// Reads one request, answers, and closes.
inline LoopbackServer::Handler Once(std::string answer) {
  return [answer = std::move(answer)](Connection& connection) {
    if (connection.ReadRequest()) connection.Send(answer);
  };
}

inline std::string OkAnswer(std::string_view body, std::string_view more_headers = "") {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + std::string(more_headers) +
         "\r\n" + std::string(body);
}

}  // namespace token_refresh::test
