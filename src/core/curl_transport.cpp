#include "core/curl_transport.h"

#include <curl/curl.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "core/curl_transfer.h"
#include "core/epoll_set.h"
#include "core/signal_guard.h"

namespace token_refresh {
namespace {

// Handles kept for the next requests. Each holds some 20 kB; making one costs about as much
// time as a request does.
constexpr size_t kMaxIdleTransfers = 1024;
// Looks at the sockets that one Collect() takes while nothing has completed. As soon as something
// has, it returns: the provider works on the rest while the owner works on these.
constexpr int kMaxRounds = 16;
// Requests that start between two looks at the sockets. So a provider that answers at once is served
// through few handles and connections, which stay in the processor's caches and make libcurl's
// search for an idle connection short; a slow one has all its requests after a few looks.
constexpr int kStartsPerLook = 32;
// Answers after which Collect() returns even if requests wait to be started: answers are to be stored soon.
constexpr size_t kEnoughAnswers = 512;

Micros MonotonicNow() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kSecond + now.tv_nsec / 1000;
}

bool StartCurl() {
  static const bool started = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return started;
}

}  // namespace

struct CurlTransport::Impl {
  explicit Impl(const Options& given) : options(given) {}
  ~Impl();

  bool Open();
  std::unique_ptr<CurlTransfer> TakeTransfer();
  void Start(uint64_t id, HttpRequest request);
  bool StartSome();
  bool MayGoOn(int round) const;
  void FinishTransfer(CurlTransfer* transfer, CURLcode verdict);
  bool RunTimer();
  bool RunSockets();
  void DrainMessages();

  static int OnSocket(CURL*, curl_socket_t fd, int what, void* self, void*) noexcept;
  static int OnTimer(CURLM*, long milliseconds, void* self) noexcept;

  const Options options;
  EpollSet sockets;  // outlives the multi handle, which closes its connections through it
  CURLM* multi = nullptr;
  std::optional<Micros> timer_at;  // monotonic
  std::deque<std::pair<uint64_t, HttpRequest>> waiting;  // submitted, not started
  std::vector<std::unique_ptr<CurlTransfer>> active, idle;
  std::vector<HttpCompletion> completions;
};

CurlTransport::Impl::~Impl() {
  for (const auto& transfer : active) curl_multi_remove_handle(multi, transfer->handle());
  active.clear();
  idle.clear();
  if (multi != nullptr) curl_multi_cleanup(multi);
}

bool CurlTransport::Impl::Open() {
  if (!sockets.Open()) return false;
  multi = curl_multi_init();
  if (multi == nullptr) return false;
  const long connections = static_cast<long>(options.max_connections);
  const long per_host = static_cast<long>(options.max_connections_per_host);
  // Both limits: the first closes idle connections, the second makes requests wait for a free one.
  return curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, connections) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, connections) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, per_host) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, &OnSocket) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, this) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, &OnTimer) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_TIMERDATA, this) == CURLM_OK;
}

std::unique_ptr<CurlTransfer> CurlTransport::Impl::TakeTransfer() {
  if (idle.empty()) return CurlTransfer::Create(sockets, options.idle_connection_age);
  std::unique_ptr<CurlTransfer> transfer = std::move(idle.back());
  idle.pop_back();
  return transfer;
}

void CurlTransport::Impl::Start(uint64_t id, HttpRequest request) {
  std::unique_ptr<CurlTransfer> transfer = TakeTransfer();
  if (transfer == nullptr) {
    HttpCompletion completion{id, {}};
    completion.response.failure = TransportFailure::kNotSent;
    completion.response.failure_message = "libcurl has no memory left";
    completions.push_back(std::move(completion));
    return;
  }
  if (!transfer->Start(id, std::move(request))) {
    completions.push_back(transfer->Finish(CURLE_OK));
    return;
  }
  // Only sets a timer; the request goes out with RunTimer().
  if (curl_multi_add_handle(multi, transfer->handle()) != CURLM_OK) {
    completions.push_back(transfer->Finish(CURLE_FAILED_INIT));
    return;
  }
  transfer->slot = active.size();
  active.push_back(std::move(transfer));
}

bool CurlTransport::Impl::StartSome() {
  int started = 0;
  for (; started < kStartsPerLook && !waiting.empty(); ++started) {
    auto [id, request] = std::move(waiting.front());
    waiting.pop_front();
    Start(id, std::move(request));
  }
  return started > 0;
}

bool CurlTransport::Impl::MayGoOn(int round) const {
  if (!waiting.empty()) return completions.size() < kEnoughAnswers;
  return round < kMaxRounds && completions.empty();
}

void CurlTransport::Impl::FinishTransfer(CurlTransfer* transfer, CURLcode verdict) {
  curl_multi_remove_handle(multi, transfer->handle());
  completions.push_back(transfer->Finish(verdict));
  const size_t slot = transfer->slot;
  if (idle.size() < kMaxIdleTransfers) idle.push_back(std::move(active[slot]));
  if (slot + 1 < active.size()) {
    active[slot] = std::move(active.back());
    active[slot]->slot = slot;
  }
  active.pop_back();
}

int CurlTransport::Impl::OnSocket(CURL*, curl_socket_t fd, int what, void* self, void*) noexcept {
  uint32_t wanted = 0;
  if (what == CURL_POLL_IN || what == CURL_POLL_INOUT) wanted |= EPOLLIN;
  if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT) wanted |= EPOLLOUT;
  static_cast<Impl*>(self)->sockets.Watch(fd, wanted);
  return 0;
}

int CurlTransport::Impl::OnTimer(CURLM*, long milliseconds, void* self) noexcept {
  auto* impl = static_cast<Impl*>(self);
  if (milliseconds < 0) {
    impl->timer_at.reset();
  } else {
    impl->timer_at = MonotonicNow() + milliseconds * kMillisecond;
  }
  return 0;
}

bool CurlTransport::Impl::RunTimer() {
  if (!timer_at || MonotonicNow() < *timer_at) return false;
  timer_at.reset();  // libcurl sets it anew, also when we come too early
  int running = 0;
  curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
  return true;
}

bool CurlTransport::Impl::RunSockets() {
  std::array<epoll_event, EpollSet::kMaxReady> events;
  const int ready = sockets.Ready(events.data());
  for (int i = 0; i < ready; ++i) {
    int what = 0;
    if (events[i].events & EPOLLIN) what |= CURL_CSELECT_IN;
    if (events[i].events & EPOLLOUT) what |= CURL_CSELECT_OUT;
    int running = 0;
    curl_multi_socket_action(multi, events[i].data.fd, what, &running);
    DrainMessages();
  }
  return ready > 0;
}

void CurlTransport::Impl::DrainMessages() {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    const CURLcode verdict = message->data.result;  // the message dies with the transfer's removal
    FinishTransfer(CurlTransfer::FromHandle(message->easy_handle), verdict);
  }
}

CurlTransport::CurlTransport(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CurlTransport::~CurlTransport() = default;

Result<std::unique_ptr<CurlTransport>> CurlTransport::Create(const Options& options) {
  if (!StartCurl()) return Error{ErrorCode::kInternal, "libcurl cannot be initialised", {}};
  auto impl = std::make_unique<Impl>(options);
  if (!impl->Open()) {
    return Error{ErrorCode::kInternal, std::string("cannot set up HTTP: ") + std::strerror(errno), {}};
  }
  return std::unique_ptr<CurlTransport>(new CurlTransport(std::move(impl)));
}

void CurlTransport::Submit(uint64_t id, HttpRequest request) { impl_->waiting.emplace_back(id, std::move(request)); }

std::vector<HttpCompletion> CurlTransport::Collect() {
  const SignalGuard guard;
  for (int round = 0; impl_->MayGoOn(round); ++round) {
    const bool started = impl_->StartSome();
    const bool timer_ran = impl_->RunTimer();
    const bool sockets_ran = impl_->RunSockets();
    impl_->DrainMessages();
    if (!started && !timer_ran && !sockets_ran) break;
  }
  return std::exchange(impl_->completions, {});
}

size_t CurlTransport::in_flight() const {
  return impl_->waiting.size() + impl_->active.size() + impl_->completions.size();
}

int CurlTransport::descriptor() const { return impl_->sockets.descriptor(); }

std::optional<Micros> CurlTransport::NextTimeout() const {
  if (!impl_->completions.empty() || !impl_->waiting.empty()) return 0;
  if (!impl_->timer_at) return std::nullopt;
  return std::max<Micros>(*impl_->timer_at - MonotonicNow(), 0);
}

}  // namespace token_refresh
