// The sockets that libcurl wants watched, folded into one epoll descriptor.
// Private to CurlTransport. Nothing here throws: most calls come from inside libcurl.
//
// A kept connection alternates between "wait for the answer" and "idle" with
// every request. Telling the kernel each time would cost two system calls a
// request, so an idle socket stays registered for reading and is dropped only
// when the server touches it. That is safe only for sockets whose closing we see;
// therefore libcurl opens and closes its connections through this class, and
// any other descriptor (the resolver's) is registered and dropped at once.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <vector>

namespace token_refresh {

class EpollSet {
 public:
  static constexpr int kMaxReady = 256;

  EpollSet() = default;
  ~EpollSet();
  EpollSet(const EpollSet&) = delete;
  EpollSet& operator=(const EpollSet&) = delete;

  // False with errno set when the system gives no descriptor.
  bool Open() noexcept;
  int descriptor() const { return epoll_; }

  // As socket(2) and close(2); -1 on error.
  int OpenSocket(int family, int type, int protocol) noexcept;
  int CloseSocket(int fd) noexcept;

  // wanted: EPOLLIN and EPOLLOUT; 0: nothing any more. A refusal of the kernel (out of memory) is
  // not reported: that one transfer then runs into its timeout.
  void Watch(int fd, uint32_t wanted) noexcept;

  // What is ready now, at most kMaxReady events, without waiting. events[i].events
  // holds only EPOLLIN and EPOLLOUT; an error or hang-up shows as what was wanted. May return 0
  // although something is left: dropped sockets count towards the maximum.
  int Ready(epoll_event* events) noexcept;

 private:
  struct Watched {
    bool ours = false;  // opened here, so its closing will be seen
    uint8_t wanted = 0;
    uint8_t registered = 0;
  };

  Watched* FindOurs(int fd) noexcept;
  void Control(int operation, int fd, uint32_t events) noexcept;

  int epoll_ = -1;
  std::vector<Watched> sockets_;  // by descriptor
};

}  // namespace token_refresh
