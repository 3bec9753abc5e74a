#include "worker/formats/inert_value.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string_view>

#include "absl/strings/ascii.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

bool IsNumber(const Json& value, double number) {
  return value.is_number() &&
         std::abs(value.get<double>() - number) <= 1e-9 * std::max(1.0, std::abs(number));
}

bool AllAre(const Json& value, const Json& wanted) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [&](const Json& item) { return item == wanted; });
}

bool IsWord(const Json& value, std::initializer_list<std::string_view> words) {
  if (!value.is_string()) return false;
  const std::string lower = absl::AsciiStrToLower(value.get<std::string>());
  return std::find(words.begin(), words.end(), lower) != words.end();
}

bool IsFlag(const Json& value, bool flag) {
  return value.is_boolean() ? value.get<bool>() == flag : IsNumber(value, flag ? 1 : 0);
}

bool FitsShape(Inert inert, const Json& value, const ModelConfig& config) {
  const auto dim = static_cast<double>(config.HeadDim());
  switch (inert) {
    case Inert::kLast:
      return IsNumber(value, -1) ||
             IsNumber(value, static_cast<double>(config.num_hidden_layers - 1));
    case Inert::kHeadDim:
      return IsNumber(value, dim);
    case Inert::kScoreScale:
      return value.is_number() && std::abs(value.get<double>() * std::sqrt(dim) - 1) < 1e-6;
    case Inert::kHiddenSize:
      return IsNumber(value, static_cast<double>(config.hidden_size));
    case Inert::kEps:
      return value.is_number() && value.get<double>() == config.rms_norm_eps;
    case Inert::kRopeTheta:
      return IsNumber(value, config.rope_theta);
    case Inert::kOriginal:
      return !config.rope_scaling.has_value() ||
             IsNumber(value,
                      static_cast<double>(config.rope_scaling->original_max_position_embeddings));
    default:
      return false;
  }
}

}  // namespace

bool IsEmptyValue(const Json& value) { return value.is_structured() && value.empty(); }

bool IsInert(Inert inert, const Json& value, const ModelConfig& config) {
  switch (inert) {
    case Inert::kSilent:
      return true;
    case Inert::kNone:
      return IsEmptyValue(value);
    case Inert::kFalse:
      return IsFlag(value, false);
    case Inert::kTrue:
      return IsFlag(value, true);
    case Inert::kQkNorm:
      return IsFlag(value, false) || (config.qk_norm && IsFlag(value, true));
    case Inert::kZero:
      return IsFlag(value, false) || IsEmptyValue(value);
    case Inert::kOne:
      return IsNumber(value, 1);
    case Inert::kNoList:
      return IsEmptyValue(value);
    case Inert::kAllOnes:
      return AllAre(value, 1);
    case Inert::kFullAttention:
      return AllAre(value, "full_attention");
    case Inert::kMlpTypes:
      return AllAre(value, config.use_moe ? "sparse" : "dense");
    case Inert::kGroups:
      return IsNumber(value, 0) || IsNumber(value, 1);
    case Inert::kSilu:
      return IsWord(value, {"silu", "swish", "swiglu"});
    case Inert::kSoftmax:
      return IsWord(value, {"softmax"});
    case Inert::kGreedy:
      return IsWord(value, {"greedy"});
    case Inert::kRope:
      return IsWord(value, {"rope", "rotary"});
    case Inert::kRmsNorm:
      return IsWord(value, {"rmsnorm", "rms_norm", "rms"});
    default:
      return FitsShape(inert, value, config);
  }
}

}  // namespace mindforge
