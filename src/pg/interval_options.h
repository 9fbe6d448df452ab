// Options that are PostgreSQL interval text become microseconds, so that the core, which
// checks all the others, needs no idea of intervals. May raise.
#pragma once

#include <span>

#include "core/provider.h"
#include "pg/postgres_api.h"

namespace token_refresh {

// The object with its kInterval options converted. Raises invalid_parameter_value when options is no object, or
// naming the option that is no interval.
Jsonb* ConvertIntervalOptions(Jsonb* options, std::span<const OptionSpec> specs);

}  // namespace token_refresh
