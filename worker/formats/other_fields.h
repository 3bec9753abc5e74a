// The fields of a config.json that this project's arithmetic has no place for. Whatever some model
// of transformers gives a meaning is listed with the values at which that meaning is none; any
// other value is refused, since leaving it out would give wrong answers without a word.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/formats/config_fields.h"
#include "worker/formats/model_config.h"

namespace mindforge {

// Looks at what `fields` (of `json`) has not read. Refused fields become its problems; those that
// are not known to anybody are returned.
std::vector<std::string> CheckOtherFields(const nlohmann::json& json, const ModelConfig& config,
                                          FieldReader* fields);

// The same for the members of rope_scaling or rope_parameters.
std::vector<std::string> CheckOtherRopeFields(const nlohmann::json& json, const ModelConfig& config,
                                              FieldReader* fields);

}  // namespace mindforge
