#include "worker/formats/rope_json.h"

#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "worker/formats/other_fields.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;
using Type = RopeScaling::Type;

constexpr double kTwoPi = 6.283185307179586;

// MiniMind's code of 2025 writes `yarn` for a formula of its own and has no attention_factor; what
// computes the standard ramp has one.
bool IsMisnamed(const RopeReading& reading, const std::string& type, FieldReader* fields) {
  return !reading.hugging_face && type == "yarn" && fields->Find("attention_factor") == nullptr;
}

// What a file that says no more than the type means.
RopeScaling DefaultsOf(Type type, bool hugging_face, const ModelConfig& config) {
  RopeScaling scaling;
  scaling.type = type;
  if (type == Type::kMinimind) return scaling;
  scaling.factor = 16;
  scaling.beta_fast = 32;
  if (hugging_face) scaling.original_max_position_embeddings = config.max_position_embeddings;
  return scaling;
}

void ReadNumbers(bool transformers_yarn, const ModelConfig& config, FieldReader* fields,
                 RopeScaling* scaling) {
  fields->Read("original_max_position_embeddings", &scaling->original_max_position_embeddings);
  if (!fields->Read("factor", &scaling->factor) && transformers_yarn &&
      scaling->original_max_position_embeddings > 0) {
    scaling->factor = static_cast<double>(config.max_position_embeddings) /
                      static_cast<double>(scaling->original_max_position_embeddings);
  }
  fields->Read("beta_fast", &scaling->beta_fast);
  fields->Read("beta_slow", &scaling->beta_slow);
  if (!fields->Read("attention_factor", &scaling->attention_factor) && transformers_yarn &&
      scaling->factor > 1) {
    scaling->attention_factor = 0.1 * std::log(scaling->factor) + 1;  // transformers' default
  }
}

std::string TypeOf(FieldReader* fields) {
  std::string type = "default";
  std::string old_type;
  fields->Read("type", &old_type);
  if (!fields->Read("rope_type", &type) && !old_type.empty()) type = old_type;
  return type;
}

void ReadOne(const RopeReading& reading, const Json& json, const std::string& name,
             ModelConfig* config) {
  if (!json.is_object()) {
    reading.problems->push_back(name + " must be an object");
    return;
  }
  FieldReader fields(json, name + ".", reading.problems);
  const std::string type = TypeOf(&fields);
  fields.Read("rope_theta", &config->rope_theta);  // `rope_parameters` holds it
  if (type != "default" && type != "yarn" && type != "minimind") {
    fields.Problem("rope_type", absl::StrCat("\"", type,
                                             "\" is not supported; default, minimind "
                                             "and yarn are"));
    return;
  }
  const bool misnamed = IsMisnamed(reading, type, &fields);
  RopeScaling scaling = DefaultsOf(type == "yarn" && !misnamed ? Type::kYarn : Type::kMinimind,
                                   reading.hugging_face, *config);
  ReadNumbers(reading.hugging_face && type == "yarn", *config, &fields, &scaling);
  for (const std::string& one : CheckOtherRopeFields(json, *config, &fields)) {
    reading.unknown->push_back(absl::StrCat(name, ".", one));
  }
  if (type == "default") return;
  config->rope_scaling = scaling;
  if (misnamed && reading.notes != nullptr) {
    reading.notes->push_back(absl::StrCat(
        "config.json: ", name,
        " of type yarn without attention_factor in a minimind folder is "
        "MiniMind's own scaling (rope_type: minimind), as the code that wrote it computes it"));
  }
}

}  // namespace

RopeScaling Minimind3RopeScaling() { return {.type = Type::kYarn, .factor = 16, .beta_fast = 32}; }

void ReadRope(const RopeReading& reading, FieldReader* fields, ModelConfig* config) {
  for (const char* const name : {"rope_parameters", "rope_scaling"}) {
    const Json* const json = fields->Find(name);
    if (json != nullptr) ReadOne(reading, *json, name, config);
  }
  if (reading.hugging_face && reading.problems->empty() && !HasStandardYarnRamp(*config)) {
    fields->Problem("rope_scaling",
                    "of type yarn stretches up to the last frequency, where transformers computes "
                    "another ramp than this project; it is not supported");
  }
}

bool HasStandardYarnRamp(const ModelConfig& config) {
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  if (!scaling.has_value() || scaling->type != Type::kYarn) return true;
  // The last frequency that the ramp reaches, before it is bounded.
  const auto original = static_cast<double>(scaling->original_max_position_embeddings);
  const double end = std::ceil(static_cast<double>(config.HeadDim()) *
                               std::log(original / (kTwoPi * scaling->beta_slow)) /
                               (2 * std::log(config.rope_theta)));
  return end <= static_cast<double>(config.HeadDim() / 2 - 1);
}

Json RopeScalingToJson(const RopeScaling& scaling) {
  return {{"rope_type", scaling.type == Type::kYarn ? "yarn" : "minimind"},
          {"original_max_position_embeddings", scaling.original_max_position_embeddings},
          {"factor", scaling.factor},
          {"beta_fast", scaling.beta_fast},
          {"beta_slow", scaling.beta_slow},
          {"attention_factor", scaling.attention_factor}};
}

}  // namespace mindforge
