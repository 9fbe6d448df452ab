#include "core/discovery.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/discovery_document.h"
#include "core/http_calls.h"
#include "core/provider_answer.h"

namespace token_refresh {
namespace {

bool IsClientError(const HttpResponse& response) { return response.status / 100 == 4; }

}  // namespace

struct Discoveries::Impl {
  struct Flow {
    DiscoveryRequest request;
    Micros begun_at = 0;
    bool asks_oauth = false;  // the second address, where the first had nothing
  };

  Impl(HttpTransport& transport, const Clock& clock, size_t max_under_way)
      : clock(clock), calls(transport, max_under_way) {}

  void Begin(DiscoveryRequest request);
  void Ask(uint64_t number, const Flow& flow);
  void TakeAnswer(uint64_t number, const HttpResponse& response);
  void TakeDocument(uint64_t number, const HttpResponse& response);
  void Finish(uint64_t number, DiscoveryResult result);
  void Refuse(uint64_t number, std::string failure, std::string message);

  const Clock& clock;
  HttpDefaults defaults;
  HttpCalls calls;
  std::map<uint64_t, Flow> flows;  // by a number of our own
  uint64_t next_number = 1;
  std::vector<DiscoveryResult> finished;
  bool stopped = false;
};

void Discoveries::Impl::Begin(DiscoveryRequest request) {
  const uint64_t number = next_number++;
  Flow& flow = flows[number];
  flow.request = std::move(request);
  flow.begun_at = clock.Now();
  if (stopped) return Refuse(number, "shutting_down", "the server is shutting down");
  const bool insecure = flow.request.provider->options.allow_insecure_http && defaults.allow_insecure_http;
  if (!IsIssuer(flow.request.issuer, insecure)) {
    return Refuse(number, "issuer_invalid",
                  "an issuer is an https URL, or an http URL of the loopback interface, without query and fragment");
  }
  Ask(number, flow);
}

void Discoveries::Impl::Ask(uint64_t number, const Flow& flow) {
  const std::string& issuer = flow.request.issuer;
  std::string url = flow.asks_oauth ? OauthMetadataUrl(issuer) : OpenidConfigurationUrl(issuer);
  calls.Call(NewProviderRequest(*flow.request.provider, std::move(url), defaults),
             [this, number](const HttpResponse& response) { TakeAnswer(number, response); });
}

void Discoveries::Impl::TakeAnswer(uint64_t number, const HttpResponse& response) {
  const auto found = flows.find(number);
  if (found == flows.end()) return;
  Flow& flow = found->second;
  if (IsSuccess(response)) return TakeDocument(number, response);
  if (!IsUnavailable(response) && IsClientError(response)) {
    if (!std::exchange(flow.asks_oauth, true)) return Ask(number, flow);
    return Refuse(number, "not_found",
                  "the issuer publishes neither openid-configuration nor oauth-authorization-server");
  }
  const std::string why =
      DescribeFailure(*flow.request.provider, response, "not a discovery document", {}, clock.Now());
  Refuse(number, IsUnavailable(response) ? "provider_unavailable" : "document_unusable",
         "the issuer gives no discovery document: " + why);
}

void Discoveries::Impl::TakeDocument(uint64_t number, const HttpResponse& response) {
  const DiscoveryRequest& request = flows.at(number).request;
  const bool insecure = request.provider->options.allow_insecure_http && defaults.allow_insecure_http;
  DiscoveryRules rules{request.issuer, request.has_client_secret, insecure, request.auth_method};
  DiscoveredOptions discovered = ReadDiscoveryDocument(response.body.view(), rules);
  if (!discovered.failure.empty()) return Refuse(number, std::move(discovered.failure), std::move(discovered.message));
  DiscoveryResult result;
  result.found = true;
  result.options = std::move(discovered.options);
  Finish(number, std::move(result));
}

void Discoveries::Impl::Finish(uint64_t number, DiscoveryResult result) {
  const auto node = flows.extract(number);
  result.id = node.mapped().request.id;
  result.duration = std::max<Micros>(clock.Now() - node.mapped().begun_at, 0);
  finished.push_back(std::move(result));
}

void Discoveries::Impl::Refuse(uint64_t number, std::string failure, std::string message) {
  DiscoveryResult result;
  result.failure = std::move(failure);
  result.message = std::move(message);
  Finish(number, std::move(result));
}

Discoveries::Discoveries(HttpTransport& transport, const Clock& clock, size_t max_under_way)
    : impl_(std::make_unique<Impl>(transport, clock, max_under_way)) {}

Discoveries::~Discoveries() = default;

void Discoveries::Configure(const HttpDefaults& defaults) { impl_->defaults = defaults; }

void Discoveries::Begin(DiscoveryRequest request) { impl_->Begin(std::move(request)); }

void Discoveries::Turn() { impl_->calls.Turn(); }

std::vector<DiscoveryResult> Discoveries::TakeFinished() { return std::exchange(impl_->finished, {}); }

size_t Discoveries::unfinished() const { return impl_->flows.size(); }

void Discoveries::Abandon() {
  impl_->stopped = true;
  while (!impl_->flows.empty()) {
    impl_->Refuse(impl_->flows.begin()->first, "shutting_down", "the server is shutting down");
  }
}

}  // namespace token_refresh
