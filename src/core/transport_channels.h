// Several HttpTransports over one, so that parts of the refresher which know nothing of one another share its
// connections. Owned by whoever owns the transport below; one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/http.h"

namespace token_refresh {

class TransportChannels {
 public:
  // base outlives this, and nothing else submits to it or collects from it.
  TransportChannels(HttpTransport& base, size_t count);
  ~TransportChannels();
  TransportChannels(const TransportChannels&) = delete;
  TransportChannels& operator=(const TransportChannels&) = delete;

  // Has ids and a count of its own. Collect() of one keeps what is for the others until they collect.
  // i: less than count.
  HttpTransport& channel(size_t i);

  // A channel has completions that it has not collected: the owner has a reason not to wait.
  bool has_waiting() const;

 private:
  class Channel;

  void Submit(Channel& channel, uint64_t id, HttpRequest request);
  void CollectForAll();

  HttpTransport& base_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::unordered_map<uint64_t, std::pair<Channel*, uint64_t>> under_way_;  // by the id that base knows
  uint64_t next_id_ = 1;
};

}  // namespace token_refresh
