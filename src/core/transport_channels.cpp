#include "core/transport_channels.h"

#include <algorithm>

namespace token_refresh {

class TransportChannels::Channel final : public HttpTransport {
 public:
  explicit Channel(TransportChannels& channels) : channels_(channels) {}

  void Submit(uint64_t id, HttpRequest request) override {
    ++in_flight_;
    channels_.Submit(*this, id, std::move(request));
  }

  std::vector<HttpCompletion> Collect() override {
    channels_.CollectForAll();
    in_flight_ -= waiting_.size();
    return std::exchange(waiting_, {});
  }

  size_t in_flight() const override { return in_flight_; }

  void Keep(HttpCompletion completion) { waiting_.push_back(std::move(completion)); }
  bool has_waiting() const { return !waiting_.empty(); }

 private:
  TransportChannels& channels_;
  std::vector<HttpCompletion> waiting_;
  size_t in_flight_ = 0;  // also what waits
};

TransportChannels::TransportChannels(HttpTransport& base, size_t count) : base_(base) {
  for (size_t i = 0; i < count; ++i) channels_.push_back(std::make_unique<Channel>(*this));
}

TransportChannels::~TransportChannels() = default;

HttpTransport& TransportChannels::channel(size_t i) { return *channels_[i]; }

bool TransportChannels::has_waiting() const {
  return std::any_of(channels_.begin(), channels_.end(), [](const auto& channel) { return channel->has_waiting(); });
}

void TransportChannels::Submit(Channel& channel, uint64_t id, HttpRequest request) {
  const uint64_t base_id = next_id_++;
  under_way_.emplace(base_id, std::pair(&channel, id));
  base_.Submit(base_id, std::move(request));
}

void TransportChannels::CollectForAll() {
  for (HttpCompletion& completion : base_.Collect()) {
    const auto found = under_way_.find(completion.id);
    if (found == under_way_.end()) continue;
    const auto [channel, id] = found->second;
    under_way_.erase(found);
    completion.id = id;
    channel->Keep(std::move(completion));
  }
}

}  // namespace token_refresh
