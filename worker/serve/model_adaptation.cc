#include "worker/serve/model_adaptation.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "worker/formats/lora.h"

namespace mindforge {
namespace {

constexpr char kNone[] = "none";
constexpr char kMinimind[] = "minimind";
constexpr char kYarn[] = "yarn";

absl::Status SetRopeScaling(const v1::RopeScalingSpec& asked, ModelConfig* config) {
  config->inference_rope_scaling = false;
  config->rope_scaling.reset();
  if (asked.type() == kNone) return absl::OkStatus();
  RopeScaling scaling;
  if (asked.type() == kYarn) {
    scaling.type = RopeScaling::Type::kYarn;
    scaling.factor = 16;
    scaling.beta_fast = 32;
  } else if (asked.type() != kMinimind) {
    return InvalidArgument(
        "rope_scaling.type",
        absl::StrCat("is '", asked.type(), "'; expected ", kMinimind, ", ", kYarn, " or ", kNone));
  }
  if (asked.has_factor()) scaling.factor = asked.factor();
  if (asked.has_original_max_position_embeddings()) {
    scaling.original_max_position_embeddings = asked.original_max_position_embeddings();
  }
  if (asked.has_beta_fast()) scaling.beta_fast = asked.beta_fast();
  if (asked.has_beta_slow()) scaling.beta_slow = asked.beta_slow();
  if (asked.has_attention_factor()) scaling.attention_factor = asked.attention_factor();
  config->rope_scaling = scaling;
  std::vector<FieldViolation> violations;
  for (const ModelConfigProblem& problem : ValidateModelConfig(*config)) {
    violations.push_back({problem.field, problem.reason});
  }
  return violations.empty() ? absl::OkStatus() : InvalidArgument(violations);
}

}  // namespace

absl::Status AdaptModel(const v1::DesiredModel& desired, ModelFolder* folder) {
  if (desired.has_rope_scaling()) {
    RETURN_IF_ERROR(SetRopeScaling(desired.rope_scaling(), &folder->config));
  }
  RETURN_IF_ERROR(MergeLora(folder));
  const std::string& lora = desired.lora_path();
  if (lora.empty()) return absl::OkStatus();
  const absl::Status merged = MergeLora(lora, folder);
  if (!absl::IsNotFound(merged)) return merged;
  return Error(absl::StatusCode::kNotFound, "LORA_FILE_MISSING",
               absl::StrCat(std::string(merged.message()),
                            "; a LoRA file is a .safetensors or .pth file that every inference "
                            "worker sees"));
}

v1::RopeScalingSpec DescribeRopeScaling(const ModelConfig& config) {
  v1::RopeScalingSpec described;
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  described.set_type(!scaling                                        ? kNone
                     : scaling->type == RopeScaling::Type::kMinimind ? kMinimind
                                                                     : kYarn);
  if (!scaling) return described;
  described.set_factor(scaling->factor);
  described.set_original_max_position_embeddings(scaling->original_max_position_embeddings);
  described.set_beta_fast(scaling->beta_fast);
  described.set_beta_slow(scaling->beta_slow);
  described.set_attention_factor(scaling->attention_factor);
  return described;
}

}  // namespace mindforge
