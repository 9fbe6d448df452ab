#include "core/address_rules.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace token_refresh {
namespace {

using Ipv6 = std::array<uint8_t, 16>;

constexpr uint32_t Ipv4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) { return a << 24 | b << 16 | c << 8 | d; }

// Where clouds tell whoever asks from a machine what that machine may do. Those in 169.254.0.0/16 are link-local
// as well.
constexpr uint32_t kMetadataV4[] = {Ipv4(100, 100, 100, 200),                                         // Alibaba Cloud
                                    Ipv4(168, 63, 129, 16),                                           // Azure
                                    Ipv4(192, 0, 0, 192)};                                            // Oracle Cloud
constexpr Ipv6 kMetadataV6[] = {{0xfd, 0x00, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54},   // AWS
                                {0xfd, 0x20, 0x00, 0xce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54}};  // Google Cloud

const char* WhyRefusedV4(uint32_t address, const AddressRules& rules) {
  const uint32_t first = address >> 24;
  if (first == 127) return rules.loopback ? nullptr : "a loopback address, behind another name";
  if (first >= 240) return "a reserved or broadcast address";
  if (first >= 224) return "a multicast address";
  if (rules.special) return nullptr;
  if (first == 0) return "an unspecified address";
  if (address >> 16 == Ipv4(0, 0, 169, 254)) return "a link-local address";
  if (std::find(std::begin(kMetadataV4), std::end(kMetadataV4), address) != std::end(kMetadataV4)) {
    return "the address of a cloud's metadata service";
  }
  return nullptr;
}

bool StartsWith(const Ipv6& address, std::initializer_list<uint8_t> prefix) {
  return std::equal(prefix.begin(), prefix.end(), address.begin());
}

// RFC 4291 section 2.5.5, RFC 6052 section 2.1
bool HoldsIpv4(const Ipv6& address) {
  return StartsWith(address, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}) ||
         StartsWith(address, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) ||
         StartsWith(address, {0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0});
}

const char* WhyRefusedV6(const Ipv6& address, const AddressRules& rules) {
  Ipv6 loopback{};
  loopback[15] = 1;
  if (address == loopback) return rules.loopback ? nullptr : "a loopback address, behind another name";
  if (HoldsIpv4(address)) return WhyRefusedV4(Ipv4(address[12], address[13], address[14], address[15]), rules);
  if (address[0] == 0xff) return "a multicast address";
  if (rules.special) return nullptr;
  if (address[0] == 0xfe && (address[1] & 0xc0) == 0x80) return "a link-local address";
  if (std::find(std::begin(kMetadataV6), std::end(kMetadataV6), address) != std::end(kMetadataV6)) {
    return "the address of a cloud's metadata service";
  }
  return nullptr;
}

}  // namespace

const char* WhyAddressRefused(const sockaddr& address, const AddressRules& rules) {
  if (address.sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address, sizeof v4);
    return WhyRefusedV4(ntohl(v4.sin_addr.s_addr), rules);
  }
  if (address.sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &address, sizeof v6);
    Ipv6 bytes;
    std::memcpy(bytes.data(), &v6.sin6_addr, bytes.size());
    return WhyRefusedV6(bytes, rules);
  }
  return "an address of an unknown family";
}

const char* WhyAddressRefused(const char* address, const AddressRules& rules) {
  in_addr v4;
  if (inet_pton(AF_INET, address, &v4) == 1) return WhyRefusedV4(ntohl(v4.s_addr), rules);
  Ipv6 v6;
  if (inet_pton(AF_INET6, address, v6.data()) == 1) return WhyRefusedV6(v6, rules);
  return "an address of an unknown form";
}

}  // namespace token_refresh
