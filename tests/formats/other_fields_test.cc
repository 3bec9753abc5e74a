// Every field that some model of transformers gives a meaning: silent where it has none, refused by
// name elsewhere.
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/model_config.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

Json Base(const std::string& type) {
  Json json = {{"model_type", type},
               {"hidden_size", 64},
               {"num_hidden_layers", 2},
               {"vocab_size", 128},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"intermediate_size", 96},
               {"head_dim", 16},
               {"rms_norm_eps", 1e-6},
               {"rope_theta", 1e6},
               {"max_position_embeddings", 256}};
  if (type == "qwen3_moe") {
    json.update({{"num_experts", 4}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 32}});
  }
  return json;
}

struct Case {
  const char* field;
  std::vector<const char*> inert;
  std::vector<const char*> refused;
};

const Case kCases[] = {
    {"layer_types",
     {"null", R"(["full_attention", "full_attention"])"},
     {R"(["full_attention", "sliding_attention"])", R"(["linear_attention"])"}},
    {"use_sliding_window", {"false"}, {"true"}},
    {"sliding_window_pattern", {"null"}, {"4", R"("LLLG")"}},
    {"attention_chunk_size", {"null"}, {"8192"}},
    {"no_rope_layers", {"null", "[1, 1]"}, {"[1, 0]"}},
    {"no_rope_layer_interval", {"0"}, {"4"}},
    {"nope", {"false"}, {"true"}},
    {"partial_rotary_factor", {"1", "1.0"}, {"0.5", "0.25"}},
    {"rotary_pct", {"1.0"}, {"0.25"}},
    {"rotary_dim", {"16"}, {"8"}},
    {"rope_interleave", {"false"}, {"true"}},
    {"rope_local_base_freq", {"null", "1e6"}, {"10000.0"}},
    {"position_embedding_type", {R"("rope")"}, {R"("absolute")", R"("nope")"}},
    {"alibi", {"false"}, {"true"}},
    {"final_logit_softcapping", {"null"}, {"30.0"}},
    {"attn_logit_softcapping", {"null"}, {"50"}},
    {"query_pre_attn_scalar", {"16"}, {"256"}},
    {"attention_multiplier", {"0.25"}, {"1.0", "0.015625"}},
    {"logit_scale", {"1", "1.0"}, {"0.0625"}},
    {"embedding_multiplier", {"1.0"}, {"12.0"}},
    {"residual_multiplier", {"1"}, {"0.22"}},
    {"logits_scaling", {"1.0"}, {"8"}},
    {"scale_emb", {"1"}, {"12"}},
    {"scale_depth", {"null"}, {"1.4"}},
    {"dim_model_base", {"64"}, {"256"}},
    {"mlp_multipliers", {"[1.0, 1.0]"}, {"[0.5, 1]"}},
    {"attn_temperature_tuning", {"false"}, {"true", "4"}},
    {"attention_bias", {"false"}, {"true"}},
    {"mlp_bias", {"false"}, {"true"}},
    {"qkv_bias", {"false"}, {"true"}},
    {"lm_head_bias", {"false"}, {"true"}},
    {"no_bias", {"true"}, {"false"}},
    {"quantization_config", {"null", "{}"}, {R"({"quant_method": "fp8"})"}},
    {"hidden_act", {R"("silu")", R"("swish")"}, {R"("gelu")", R"("relu2")"}},
    {"hidden_activation", {"null"}, {R"("gelu_pytorch_tanh")"}},
    {"clip_qkv", {"null"}, {"8.0"}},
    {"swiglu_limit", {"null"}, {"7.0"}},
    {"qk_layernorm", {"false"}, {R"("rms")"}},
    {"use_qk_norm", {"false"}, {"2"}},
    {"norm_type", {R"("rmsnorm")", R"("RMSNorm")"}, {R"("layernorm")"}},
    {"layer_norm_eps", {"1e-6"}, {"1e-5"}},
    {"zero_centered_gamma", {"false"}, {"true"}},
    {"use_post_norm", {"false"}, {"true"}},
    {"use_parallel_residual", {"false"}, {"true"}},
    {"use_bidirectional_attention", {"false"}, {"true"}},
    {"is_encoder_decoder", {"false"}, {"true"}},
    {"use_attention_sinks", {"false"}, {"true"}},
    {"sink_size", {"0"}, {"4"}},
    {"attn_output_gate", {"false"}, {"true"}},
    {"pretraining_tp", {"1"}, {"2"}},
    {"q_lora_rank", {"null"}, {"1536"}},
    {"v_head_dim", {"16"}, {"128"}},
    {"num_kv_shared_layers", {"0"}, {"15"}},
    {"text_config", {"null"}, {R"({"hidden_size": 8})"}},
    {"mlp_only_layers", {"[]", "null"}, {"[0]"}},
    {"decoder_sparse_step", {"1"}, {"2"}},
    {"shared_expert_intermediate_size", {"0"}, {"5632"}},
    {"num_shared_experts", {"0"}, {"1"}},
    {"n_group", {"1", "null"}, {"8"}},
    {"topk_group", {"1"}, {"4"}},
    {"routed_scaling_factor", {"1.0"}, {"2.5"}},
    {"first_k_dense_replace", {"0"}, {"3"}},
    {"router_jitter_noise", {"0.0"}, {"0.01"}},
    {"scoring_func", {R"("softmax")"}, {R"("sigmoid")"}},
    {"topk_method", {R"("greedy")"}, {R"("noaux_tc")"}},
    {"moe_layer_freq", {"1"}, {"2"}},
    {"mamba_d_state", {"null"}, {"16"}},
    {"linear_num_key_heads", {"null"}, {"16"}},
    {"attention_dropout", {"0", "0.0", "0.1"}, {}},
    {"initializer_range", {"0.02", "1"}, {}},
    {"use_cache", {"true", "false"}, {}},
    {"max_window_layers", {"28"}, {}},
    {"output_router_logits", {"false", "true"}, {}},
};

TEST(OtherFields, AreSilentWhereTheyMeanNothingAndRefusedByNameElsewhere) {
  for (const char* const type : {"minimind", "llama", "qwen3", "qwen3_moe"}) {
    for (const Case& one : kCases) {
      for (const char* const value : one.inert) {
        Json json = Base(type);
        json[one.field] = Json::parse(value);
        std::vector<std::string> warnings;
        const auto config = ParseModelConfig(json, &warnings);
        EXPECT_TRUE(config.ok()) << type << " " << one.field << " " << config.status();
        EXPECT_THAT(warnings, IsEmpty()) << type << " " << one.field;
      }
      for (const char* const value : one.refused) {
        Json json = Base(type);
        json[one.field] = Json::parse(value);
        const absl::Status status = ParseModelConfig(json, nullptr).status();
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << one.field << " " << value;
        EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(one.field) + " is "));
      }
    }
  }
}

TEST(OtherFields, NormsOfQAndKMayBeSaidWhereTheyAreComputed) {
  for (const char* const field : {"use_qk_norm", "qk_layernorm", "norm_qk"}) {
    for (const char* const type : {"qwen3", "qwen3_moe", "llama", "minimind"}) {
      Json json = Base(type);
      json[field] = true;
      const absl::Status status = ParseModelConfig(json, nullptr).status();
      EXPECT_EQ(status.ok(), std::string_view(type).starts_with("qwen3"))
          << type << " " << field << " " << status;
    }
  }
}

TEST(OtherFields, AWindowIsNoneWhereItIsOffOrAsLongAsAnySequence) {
  const auto refused = [](Json json) { return !ParseModelConfig(json, nullptr).ok(); };
  Json llama = Base("llama");
  llama["sliding_window"] = 64;
  EXPECT_TRUE(refused(llama));
  llama["sliding_window"] = 256;
  EXPECT_FALSE(refused(llama));
  llama["sliding_window"] = 64;
  llama["use_sliding_window"] = false;
  EXPECT_FALSE(refused(llama));
  Json qwen = Base("qwen3");
  qwen["sliding_window"] = 64;  // transformers' default is not to use it
  EXPECT_FALSE(refused(qwen));
  qwen["use_sliding_window"] = true;
  EXPECT_TRUE(refused(qwen));
}

TEST(OtherFields, ExpertsBelongToAMixture) {
  for (const char* const field : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    Json json = Base("qwen3");
    json[field] = 8;
    EXPECT_THAT(std::string(ParseModelConfig(json, nullptr).status().message()), HasSubstr(field));
  }
  Json moe = Base("qwen3_moe");
  moe["n_shared_experts"] = 1;
  EXPECT_THAT(std::string(ParseModelConfig(moe, nullptr).status().message()),
              HasSubstr("n_shared_experts"));
  // MiniMind's dense folders hold the fields of a mixture.
  Json dense = Base("minimind");
  dense.update({{"use_moe", false},
                {"num_experts", 4},
                {"router_aux_loss_coef", 5e-4},
                {"moe_intermediate_size", 96},
                {"num_experts_per_tok", 1}});
  std::vector<std::string> warnings;
  const auto config = ParseModelConfig(dense, &warnings);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->use_moe);
  EXPECT_THAT(warnings, IsEmpty());
}

TEST(OtherFields, UnknownOnesAreOneWarning) {
  Json json = Base("llama");
  json.update({{"hidden_sise", 3}, {"my_note", "x"}, {"nothing", nullptr}});
  std::vector<std::string> warnings;
  EXPECT_TRUE(ParseModelConfig(json, &warnings).ok());
  EXPECT_THAT(warnings, ElementsAre("config.json: not known and not used: `hidden_sise`, "
                                    "`my_note`"));
}

TEST(OtherFields, OtherRotaryPositionsAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"rope_type": "linear", "factor": 2})", "linear"},
      {R"({"rope_type": "dynamic", "factor": 2})", "dynamic"},
      {R"({"rope_type": "llama3", "factor": 8})", "llama3"},
      {R"({"type": "longrope"})", "longrope"},
      {R"({"type": "mrope", "mrope_section": [1, 2]})", "mrope"},
      {R"({"rope_type": "default", "mrope_section": [1, 2]})", "rope_scaling.mrope_section"},
      {R"({"rope_type": "default", "partial_rotary_factor": 0.5})", "partial_rotary_factor"},
      {R"({"rope_type": "yarn", "factor": 2, "mscale": 0.7})", "rope_scaling.mscale"},
      {R"({"rope_type": "yarn", "factor": 2, "truncate": false})", "rope_scaling.truncate"},
      {R"({"full_attention": {"rope_type": "default"}})", "rope_scaling.full_attention"},
  };
  for (const auto& [scaling, says] : cases) {
    Json json = Base("llama");
    json["rope_scaling"] = Json::parse(scaling);
    EXPECT_THAT(std::string(ParseModelConfig(json, nullptr).status().message()), HasSubstr(says))
        << scaling;
  }
  // transformers bounds the ramp elsewhere.
  Json far = Base("qwen3");
  far["rope_theta"] = 100.0;
  far["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  EXPECT_THAT(std::string(ParseModelConfig(far, nullptr).status().message()),
              HasSubstr("rope_scaling"));
}

}  // namespace
}  // namespace mindforge
