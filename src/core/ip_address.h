// IP addresses as text. Callable by anyone.
#pragma once

#include <string>
#include <string_view>

namespace token_refresh {

// One spelling for each address: RFC 5952 for IPv6, and the IPv4 address of one that is mapped into IPv6
// (::ffff:a.b.c.d). What is no address (with a zone or a prefix length, too) stays as it is.
std::string NormalizedIpAddress(std::string_view address);

}  // namespace token_refresh
