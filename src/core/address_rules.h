// Which addresses a provider may have. Checked when a connection is made, so that a name which is looked up as
// one address for the check and as another for the connection (DNS rebinding) gains nothing. For the transport.
#pragma once

#include <sys/socket.h>

namespace token_refresh {

struct AddressRules {
  bool loopback = false;  // the URL itself names a loopback host
  bool special = false;   // unspecified and link-local addresses, and those of cloud metadata services, are meant
};

// Nothing when it may be connected to; else what it is, as a fixed text. Private networks may be, since providers
// run there, too. An IPv4 address inside an IPv6 one (mapped, NAT64) counts as itself, and :: as 0.0.0.0.
const char* WhyAddressRefused(const sockaddr& address, const AddressRules& rules);
// The same of an address in its text form.
const char* WhyAddressRefused(const char* address, const AddressRules& rules);

}  // namespace token_refresh
