// The ceiling for refreshing: a bare libcurl multi client that posts refresh requests to one
// token endpoint and reads the answers, over kept connections, without a database.
//
//   bare_client URL REQUESTS IN_FLIGHT
//
// Prints the requests per second. Status 1 when a request did not end with status 200.
#include <curl/curl.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

struct Transfer {
  CURL* easy = nullptr;
  std::string form;
  std::string answer;
};

size_t OnBody(char* data, size_t size, size_t count, void* self) {
  static_cast<Transfer*>(self)->answer.append(data, size * count);
  return size * count;
}

// What stays the same for all requests of a handle.
void SetUp(Transfer& transfer, const char* url, curl_slist* headers) {
  transfer.easy = curl_easy_init();
  curl_easy_setopt(transfer.easy, CURLOPT_URL, url);
  curl_easy_setopt(transfer.easy, CURLOPT_PROXY, "");
  curl_easy_setopt(transfer.easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(transfer.easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(transfer.easy, CURLOPT_PRIVATE, &transfer);
  curl_easy_setopt(transfer.easy, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(transfer.easy, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(transfer.easy, CURLOPT_POST, 1L);
}

void Send(CURLM* multi, Transfer& transfer, int number) {
  transfer.form = "grant_type=refresh_token&refresh_token=rt_bare_client_token_number_" + std::to_string(number);
  transfer.answer.clear();
  curl_easy_setopt(transfer.easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(transfer.form.size()));
  curl_easy_setopt(transfer.easy, CURLOPT_POSTFIELDS, transfer.form.c_str());
  curl_multi_add_handle(multi, transfer.easy);
}

// Takes what has completed; returns how many answers were good, or -1.
int TakeAnswers(CURLM* multi, std::vector<Transfer*>& idle) {
  int good = 0;
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    CURL* easy = message->easy_handle;
    const CURLcode verdict = message->data.result;
    long status = 0;
    char* self = nullptr;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &self);
    curl_multi_remove_handle(multi, easy);
    if (verdict != CURLE_OK || status != 200) {
      std::fprintf(stderr, "bare_client: %s, status %ld\n", curl_easy_strerror(verdict), status);
      return -1;
    }
    idle.push_back(reinterpret_cast<Transfer*>(self));
    good++;
  }
  return good;
}

bool Run(CURLM* multi, std::vector<Transfer>& transfers, int requests) {
  std::vector<Transfer*> idle;
  for (Transfer& transfer : transfers) idle.push_back(&transfer);
  int sent = 0;
  int received = 0;
  while (received < requests) {
    for (; sent < requests && !idle.empty(); idle.pop_back()) Send(multi, *idle.back(), sent++);
    int running = 0;
    if (curl_multi_perform(multi, &running) != CURLM_OK) return false;
    const int good = TakeAnswers(multi, idle);
    if (good < 0) return false;
    received += good;
    if (good == 0 && curl_multi_poll(multi, nullptr, 0, 1000, nullptr) != CURLM_OK) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: bare_client URL REQUESTS IN_FLIGHT\n");
    return 2;
  }
  const int requests = std::atoi(argv[2]);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  CURLM* multi = curl_multi_init();
  curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, std::atol(argv[3]));
  curl_slist* headers = curl_slist_append(nullptr, "Content-Type: application/x-www-form-urlencoded");
  headers = curl_slist_append(headers, "Accept: application/json");
  headers = curl_slist_append(headers, "Authorization: Basic YmVuY2g6bm90LWEtc2VjcmV0");
  std::vector<Transfer> transfers(static_cast<size_t>(std::atoi(argv[3])));
  for (Transfer& transfer : transfers) SetUp(transfer, argv[1], headers);

  const auto started = std::chrono::steady_clock::now();
  const bool done = Run(multi, transfers, requests);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  if (!done) return 1;
  std::printf("%.1f\n", requests / took.count());
  return 0;
}
