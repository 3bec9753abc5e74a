#include "worker/formats/model_config.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/safetensors.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

ModelConfig Parse(const char* json, std::vector<std::string>* warnings = nullptr) {
  const auto config = ParseModelConfig(Json::parse(json), warnings);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

std::string Problem(const char* json) {
  const auto config = ParseModelConfig(Json::parse(json), nullptr);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << json;
  return std::string(config.status().message());
}

TEST(ModelConfig, HasTheReferencesSizes) {
  const ModelConfig small = Parse("{}");
  EXPECT_EQ(small.HeadDim(), 64);
  EXPECT_EQ(small.IntermediateSize(), 1408);
  EXPECT_EQ(small.ParameterCount(), 25'829'888);
  EXPECT_NEAR(Parse(R"({"hidden_size": 768, "num_hidden_layers": 16})").ParameterCount(), 104e6,
              0.5e6);
  EXPECT_NEAR(Parse(R"({"hidden_size": 640, "use_moe": true})").ParameterCount(), 145e6, 0.5e6);
  const ModelConfig third = Parse(R"({"hidden_size": 768, "num_key_value_heads": 4,
      "qk_norm": true, "intermediate_size": 2432, "rms_norm_eps": 1e-6})");
  EXPECT_NEAR(third.ParameterCount(), 63.9e6, 0.05e6);
}

TEST(ModelConfig, CountsWhatItExpects) {
  for (const char* json :
       {"{}", R"({"use_moe": true, "qk_norm": true})", R"({"tie_word_embeddings": false})"}) {
    const ModelConfig config = Parse(json);
    int64_t elements = 0;
    for (const auto& tensor : ExpectedTensors(config)) elements += ElementCount(tensor.shape);
    EXPECT_EQ(elements, config.ParameterCount()) << json;
  }
}

// MiniMind-3's mixture as released: 4 experts, one of them chosen.
ModelConfig ThirdMixture() {
  ModelConfig config;
  config.hidden_size = 768;
  config.num_key_value_heads = 4;
  config.qk_norm = true;
  config.intermediate_size = 2432;
  config.rms_norm_eps = 1e-6;
  config.use_moe = true;
  config.moe_family = MoeFamily::kMinimind3;
  config.num_experts_per_tok = 1;
  config.n_shared_experts = 0;
  config.seq_aux = false;
  config.aux_loss_alpha = 5e-4;
  return config;
}

TEST(ModelConfig, CountsMiniMind3sMixture) {
  ModelConfig config = ThirdMixture();
  EXPECT_THAT(ValidateModelConfig(config), IsEmpty());
  EXPECT_EQ(config.MoeIntermediateSize(), 2432);
  EXPECT_NEAR(config.ParameterCount(), 198e6, 0.5e6);
  config.moe_intermediate_size = 640;
  EXPECT_EQ(config.MoeIntermediateSize(), 640);
  EXPECT_EQ(config.IntermediateSize(), 2432);
  int64_t elements = 0;
  for (const auto& tensor : ExpectedTensors(config)) elements += ElementCount(tensor.shape);
  EXPECT_EQ(elements, config.ParameterCount());
}

TEST(ModelConfig, SaysWhenATopOneWeightIsNormalized) {
  ModelConfig config = ThirdMixture();
  EXPECT_TRUE(config.NormalizesTopK());
  config.norm_topk_prob = false;
  EXPECT_FALSE(config.NormalizesTopK());
  config = ModelConfig();
  EXPECT_TRUE(config.NormalizesTopK());
  config.num_experts_per_tok = 1;
  EXPECT_FALSE(config.NormalizesTopK());
}

TEST(ModelConfig, RefusesSizesWhoseProductNoMachineHolds) {
  ModelConfig config = ThirdMixture();
  config.hidden_size = int64_t{1} << 24;
  config.intermediate_size = int64_t{1} << 24;
  config.n_routed_experts = 1024;
  config.num_hidden_layers = 4096;
  const auto problems = ValidateModelConfig(config);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].field, "hidden_size");
  EXPECT_THAT(problems[0].reason, HasSubstr("3.5"));
  EXPECT_THAT(problems[0].reason, HasSubstr("at most 1099511627776 can be built"));
}

TEST(ModelConfig, RefusesWhatAFamilyOfMixturesDoesNotHave) {
  const auto problem = [](const ModelConfig& config) {
    const auto problems = ValidateModelConfig(config);
    return problems.size() == 1 ? problems[0].field + " " + problems[0].reason : "";
  };
  ModelConfig config = ThirdMixture();
  config.n_shared_experts = 1;
  EXPECT_THAT(problem(config), HasSubstr("n_shared_experts must be 0"));
  config = ThirdMixture();
  config.seq_aux = true;
  EXPECT_THAT(problem(config), HasSubstr("seq_aux must be false"));
  config = ThirdMixture();
  config.num_experts_per_tok = 5;
  EXPECT_THAT(problem(config), HasSubstr("num_experts_per_tok must be from 1 to 4, it is 5"));
  config = ThirdMixture();
  config.n_routed_experts = 0;
  config.num_experts_per_tok = 1;
  EXPECT_THAT(problem(config), HasSubstr("num_experts must be from 1 to 1024, it is 0"));
  config = ThirdMixture();
  config.aux_loss_alpha = -1;
  EXPECT_THAT(problem(config), HasSubstr("router_aux_loss_coef must not be negative"));
  config = ThirdMixture();
  config.moe_intermediate_size = -1;
  EXPECT_THAT(problem(config), HasSubstr("moe_intermediate_size must be from 0"));
  config = ModelConfig();
  config.use_moe = true;
  config.moe_intermediate_size = 64;
  EXPECT_THAT(problem(config), HasSubstr("moe_intermediate_size is MiniMind-3's"));
}

TEST(ModelConfig, ReadsBackWhatItPrints) {
  const std::pair<const char*, const char*> cases[] = {
      {"{}", "llama"},
      {R"({"qk_norm": true, "head_dim": 96, "dropout": 0.1, "flash_attn": false})", "qwen3"},
      {R"({"use_moe": true, "n_shared_experts": 0, "seq_aux": false})", "minimind"},
      {R"({"use_moe": true, "num_experts": 8, "qk_norm": true, "moe_intermediate_size": 96,
           "num_experts_per_tok": 2})",
       "qwen3_moe"},
      {R"({"use_moe": true, "num_experts": 8, "qk_norm": false, "norm_topk_prob": false})",
       "minimind"},
      {R"({"use_moe": true, "router_aux_loss_coef": 0.01, "qk_norm": true,
           "inference_rope_scaling": true})",
       "minimind"},
      {R"({"inference_rope_scaling": true})", "minimind"},
      {R"({"rope_scaling": {"type": "minimind", "factor": 8}})", "minimind"},
      {R"({"rope_scaling": {"rope_type": "yarn", "attention_factor": 1.5}})", "llama"},
      {R"({"tie_word_embeddings": false, "num_key_value_heads": null, "eos_token_id": 5})",
       "llama"},
  };
  for (const auto& [text, type] : cases) {
    const ModelConfig config = Parse(text);
    const Json json = ModelConfigToJson(config);
    EXPECT_EQ(json["model_type"], type) << text;
    std::vector<std::string> warnings;
    const auto again = ParseModelConfig(json, &warnings);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(*again == config) << json;
    EXPECT_THAT(warnings, IsEmpty());
  }
}

TEST(ModelConfig, ReadsTheGoldenConfigurations) {
  const Json index = Json::parse(ReadBytes(TestData("golden/index.json")));
  for (const auto& [name, entry] : index.items()) {
    if (!entry.is_object() || !entry.contains("config")) continue;
    const auto config = ParseModelConfig(entry["config"], nullptr);
    ASSERT_TRUE(config.ok()) << name << config.status();
    EXPECT_EQ(config->hidden_size, 64);
    const auto scaling = config->EffectiveRopeScaling();
    EXPECT_EQ(scaling.has_value(), name.starts_with("yarn")) << name;
    if (name == "yarn") {
      EXPECT_EQ(scaling->type, RopeScaling::Type::kYarn);
      EXPECT_EQ(scaling->beta_fast, 32);
    }
  }
}

TEST(ModelConfig, TakesHuggingFacesDefaultsForItsFamilies) {
  const ModelConfig llama = Parse(R"({"model_type": "llama", "hidden_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
      "intermediate_size": 96, "max_position_embeddings": 64,
      "eos_token_id": [2, 7], "pad_token_id": null,
      "rope_scaling": {"rope_type": "yarn", "factor": 4.0}})");
  EXPECT_EQ(llama.num_key_value_heads, 4);
  EXPECT_EQ(llama.rope_theta, 10000);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6);
  EXPECT_FALSE(llama.tie_word_embeddings);
  EXPECT_FALSE(llama.qk_norm);
  EXPECT_EQ(llama.eos_token_id, 2);
  EXPECT_NEAR(llama.rope_scaling->attention_factor, 1.1386, 1e-4);
  EXPECT_EQ(llama.rope_scaling->original_max_position_embeddings, 64);
  const ModelConfig stretched = Parse(R"({"model_type": "llama", "hidden_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "intermediate_size": 96,
      "rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 512}})");
  EXPECT_EQ(stretched.max_position_embeddings, 2048);
  EXPECT_EQ(stretched.rope_scaling->factor, 4);
  const ModelConfig qwen = Parse(R"({"model_type": "qwen3", "hidden_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
      "intermediate_size": 96, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})");
  EXPECT_TRUE(qwen.qk_norm);
  EXPECT_EQ(qwen.head_dim, 128);
  EXPECT_EQ(qwen.rope_theta, 5e5);
  EXPECT_FALSE(qwen.rope_scaling.has_value());
}

TEST(ModelConfig, WarnsOfFieldsItDoesNotUse) {
  std::vector<std::string> warnings;
  Parse(R"({"hidden_sise": 512, "torch_dtype": "float32", "rope_scaling": null})", &warnings);
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("`hidden_sise`")));
}

TEST(ModelConfig, ListsEveryProblemAtOnce) {
  const std::string problem = Problem(R"({"hidden_size": "big", "num_hidden_layers": 1.5,
      "flash_attn": 1, "hidden_act": "gelu", "rope_scaling": {"rope_type": "linear"},
      "attention_bias": true})");
  for (const char* field :
       {"hidden_size", "num_hidden_layers", "flash_attn", "gelu", "linear", "attention_bias"}) {
    EXPECT_THAT(problem, HasSubstr(field));
  }
}

TEST(ModelConfig, RefusesWhatCannotBeBuilt) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([])", "object"},
      {R"({"model_type": "gpt2"})", "gpt2"},
      {R"({"model_type": "llama"})", "hidden_size is missing"},
      {R"({"hidden_size": 0})", "hidden_size"},
      {R"({"hidden_size": -512})", "hidden_size"},
      {R"({"hidden_size": 1e12})", "hidden_size"},
      {R"({"hidden_size": 510})", "num_attention_heads"},
      {R"({"num_attention_heads": 0})", "num_attention_heads"},
      {R"({"num_key_value_heads": 3})", "num_key_value_heads"},
      {R"({"num_key_value_heads": 0})", "num_key_value_heads"},
      {R"({"head_dim": 63})", "head_dim"},
      {R"({"vocab_size": 2})", "eos_token_id"},
      {R"({"dropout": 1})", "dropout"},
      {R"({"rms_norm_eps": 0})", "rms_norm_eps"},
      {R"({"rope_theta": 1})", "rope_theta"},
      {R"({"rope_scaling": "yarn"})", "rope_scaling"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 0.5}})", "rope_scaling.factor"},
      {R"({"use_moe": true, "num_experts_per_tok": 5})", "num_experts_per_tok"},
      {R"({"use_moe": true, "scoring_func": "sigmoid"})", "sigmoid"},
      {R"({"use_moe": true, "num_experts": 4, "n_routed_experts": 8})", "n_routed_experts"},
      {R"({"use_moe": true, "num_experts": 4, "n_shared_experts": 1})", "n_shared_experts"},
      {R"({"model_type": "qwen3_moe", "hidden_size": 64})", "num_experts is missing"},
      {R"({"model_type": "mistral"})", "mistral"},
  };
  for (const auto& [json, says] : cases) EXPECT_THAT(Problem(json), HasSubstr(says)) << json;
}

}  // namespace
}  // namespace mindforge
