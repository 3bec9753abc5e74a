// -o json and yaml for what is no proto message.
#pragma once

#include "cli/session.h"
#include "nlohmann/json.hpp"

namespace mindforge::cli {

// REQUIRES: session.structured().
void PrintJson(Session& session, const nlohmann::ordered_json& value);

}  // namespace mindforge::cli
