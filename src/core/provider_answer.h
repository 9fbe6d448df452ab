// What the readers of answers to other requests than refreshes have in common. For the sign-in code.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/http.h"
#include "core/provider.h"

namespace token_refresh {

// The answer is complete and its status is 2xx.
bool IsSuccess(const HttpResponse& response);

// No answer, or one that says nothing about what was asked: 5xx, 429. Another try may help.
bool IsUnavailable(const HttpResponse& response);

// Why an answer, or the lack of one, is of no use: at most kMaxFailureMessage bytes, scrubbed of sent. complaint says
// what is wrong with it where the answer itself does not.
std::string DescribeFailure(const Provider& provider, const HttpResponse& response, std::string_view complaint,
                            const std::vector<std::string_view>& sent, Micros now);

}  // namespace token_refresh
