#include "core/address_rules.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>
#include <string>

namespace token_refresh {
namespace {

std::string Refused(const char* text, const AddressRules& rules = {}) {
  sockaddr_storage storage{};
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    storage.ss_family = AF_INET;
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text, &v6->sin6_addr), 1) << text;
    storage.ss_family = AF_INET6;
  }
  const char* reason = WhyAddressRefused(*reinterpret_cast<sockaddr*>(&storage), rules);
  EXPECT_EQ(WhyAddressRefused(text, rules), reason) << text;
  return reason == nullptr ? "" : reason;
}

TEST(AddressRulesTest, ProvidersAndPrivateNetworksAreAsked) {
  for (const char* address : {"93.184.216.34", "10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1", "169.253.1.1",
                              "2606:2800:220:1:248:1893:25c8:1946", "fc00::1", "fd12::5", "::ffff:10.0.0.1"}) {
    EXPECT_EQ(Refused(address), "") << address;
  }
}

TEST(AddressRulesTest, WhatIsNeverAProviderIsNot) {
  for (const char* address : {"0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "64:ff9b::0.0.0.0"}) {
    EXPECT_EQ(Refused(address, {true, false}), "an unspecified address") << address;
    EXPECT_EQ(Refused(address, {false, true}), "") << address;
  }
  for (const char* address : {"224.0.0.1", "239.255.255.250", "ff02::1", "::ffff:224.0.0.1"}) {
    EXPECT_EQ(Refused(address, {true, true}), "a multicast address") << address;
  }
  for (const char* address : {"255.255.255.255", "240.0.0.1"}) {
    EXPECT_EQ(Refused(address, {true, true}), "a reserved or broadcast address") << address;
  }
}

TEST(AddressRulesTest, LinkLocalAndMetadataOnlyIfMeant) {
  for (const char* address : {"169.254.169.254", "169.254.0.1", "fe80::1", "febf::1", "::ffff:169.254.169.254",
                              "64:ff9b::169.254.169.254", "::169.254.169.254"}) {
    EXPECT_EQ(Refused(address), "a link-local address") << address;
    EXPECT_EQ(Refused(address, {false, true}), "") << address;
  }
  for (const char* address :
       {"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "::ffff:100.100.100.200"}) {
    EXPECT_EQ(Refused(address), "the address of a cloud's metadata service") << address;
    EXPECT_EQ(Refused(address, {false, true}), "") << address;
  }
}

TEST(AddressRulesTest, WhatIsNoAddressIsNotAsked) {
  for (const char* text : {"", "host.example", "10.0.0", "fe80::1%lo"})
    EXPECT_STREQ(WhyAddressRefused(text, {true, true}), "an address of an unknown form") << text;
}

TEST(AddressRulesTest, LoopbackOnlyIfTheUrlSaysSo) {
  for (const char* address : {"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"}) {
    EXPECT_EQ(Refused(address), "a loopback address, behind another name") << address;
    EXPECT_EQ(Refused(address, {false, true}), "a loopback address, behind another name") << address;
    EXPECT_EQ(Refused(address, {true, false}), "") << address;
  }
}

TEST(AddressRulesTest, OtherFamiliesAreNot) {
  sockaddr address{};
  address.sa_family = AF_UNIX;
  EXPECT_NE(WhyAddressRefused(address, {true, true}), nullptr);
}

}  // namespace
}  // namespace token_refresh
