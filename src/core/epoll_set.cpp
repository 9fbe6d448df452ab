#include "core/epoll_set.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <new>

namespace token_refresh {

EpollSet::~EpollSet() {
  if (epoll_ >= 0) close(epoll_);
}

bool EpollSet::Open() noexcept {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  return epoll_ >= 0;
}

int EpollSet::OpenSocket(int family, int type, int protocol) noexcept {
  const int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
  if (fd < 0) return -1;
  try {
    if (sockets_.size() <= static_cast<size_t>(fd)) sockets_.resize(fd + 1);
  } catch (const std::bad_alloc&) {
    close(fd);
    errno = ENOMEM;
    return -1;
  }
  sockets_[fd] = Watched{.ours = true};
  return fd;
}

int EpollSet::CloseSocket(int fd) noexcept {
  if (Watched* socket = FindOurs(fd)) {
    if (socket->registered != 0) Control(EPOLL_CTL_DEL, fd, 0);
    *socket = Watched{};
  }
  return close(fd);
}

EpollSet::Watched* EpollSet::FindOurs(int fd) noexcept {
  if (static_cast<size_t>(fd) >= sockets_.size() || !sockets_[fd].ours) return nullptr;
  return &sockets_[fd];
}

void EpollSet::Control(int operation, int fd, uint32_t events) noexcept {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_, operation, fd, &event) == 0 || operation == EPOLL_CTL_DEL) return;
  // For a foreign descriptor it is not known whether the kernel already has it.
  if (errno == ENOENT) epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
}

void EpollSet::Watch(int fd, uint32_t wanted) noexcept {
  Watched* socket = FindOurs(fd);
  if (socket == nullptr) {
    Control(wanted == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD, fd, wanted);
    return;
  }
  socket->wanted = static_cast<uint8_t>(wanted);
  if (wanted == socket->registered || (wanted == 0 && socket->registered == EPOLLIN)) return;
  Control(wanted == 0 ? EPOLL_CTL_DEL : (socket->registered == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD), fd, wanted);
  socket->registered = static_cast<uint8_t>(wanted);
}

int EpollSet::Ready(epoll_event* events) noexcept {
  const int found = epoll_wait(epoll_, events, kMaxReady, 0);
  int kept = 0;
  for (int i = 0; i < found; ++i) {
    const int fd = events[i].data.fd;
    uint32_t ready = events[i].events;
    if (Watched* socket = FindOurs(fd)) {
      if (socket->wanted == 0) {
        Control(EPOLL_CTL_DEL, fd, 0);
        socket->registered = 0;
        continue;
      }
      if (ready & (EPOLLERR | EPOLLHUP)) ready |= socket->wanted;
    } else if (ready & (EPOLLERR | EPOLLHUP)) {
      ready |= EPOLLIN;
    }
    events[kept] = events[i];
    events[kept++].events = ready & (EPOLLIN | EPOLLOUT);
  }
  return kept;
}

}  // namespace token_refresh
