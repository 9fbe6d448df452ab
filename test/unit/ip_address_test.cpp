#include "core/ip_address.h"

#include <gtest/gtest.h>

namespace token_refresh {
namespace {

TEST(IpAddress, OneSpelling) {
  for (const char* spelling :
       {"2001:db8::1", "2001:DB8::1", "2001:db8:0:0:0:0:0:1", "2001:0db8::0001", "2001:db8:0::0.0.0.1"}) {
    EXPECT_EQ(NormalizedIpAddress(spelling), "2001:db8::1");
  }
  for (const char* spelling : {"192.0.2.1", "::ffff:192.0.2.1", "::FFFF:c000:201", "0:0:0:0:0:ffff:192.0.2.1"}) {
    EXPECT_EQ(NormalizedIpAddress(spelling), "192.0.2.1");
  }
  EXPECT_EQ(NormalizedIpAddress("::"), "::");
}

TEST(IpAddress, TheRestStays) {
  for (const std::string text : {"", "unknown", "192.0.2", "192.0.2.01", "192.0.2.1/32", "2001:DB8::/32",
                                 "FE80::1%eth0", " ::1", "2001:DB8::1:x", "::ffff:192.0.2.300"}) {
    EXPECT_EQ(NormalizedIpAddress(text), text);
  }
  EXPECT_EQ(NormalizedIpAddress({"::FF\0x", 6}), std::string("::FF\0x", 6));
}

}  // namespace
}  // namespace token_refresh
