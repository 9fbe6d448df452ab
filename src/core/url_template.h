// URLs with places for values, held to the hosts that they were meant for: a value may choose a tenant, never
// another party. For the parser of the provider options and for whoever builds requests.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "core/text_template.h"

namespace token_refresh {

bool HasPlaces(std::string_view text);

// A whole host, or "*." and at least two labels, in lower case.
bool IsHostPattern(std::string_view pattern);

// host is in lower case. "*.example.com" matches what ends in ".example.com", not example.com itself.
bool MatchesHost(std::string_view host, const std::vector<std::string>& patterns);

// With "x" in every place.
std::string SampleUrl(const TextTemplate& url);

// Whether values can be put in safely. A place in the host needs allowed_hosts, or at least two labels of a name
// behind it ("${tenant}.example.com"); scheme and port have no places. Errors: kInvalidArgument; the message goes
// on after a subject.
Status CheckUrlTemplate(const TextTemplate& url, const std::vector<std::string>& allowed_hosts);

// A text without places comes back as it is. In the host only letters, digits, "-" and "." are taken; in path
// and query values are percent-encoded. The host, if it has places, then matches allowed_hosts, or ends as the
// template does. Errors: kInvalidArgument, without the values.
Result<std::string> ExpandUrl(std::string_view text, const FindValue& find,
                              const std::vector<std::string>& allowed_hosts);

}  // namespace token_refresh
