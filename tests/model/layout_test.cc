// Offsets by role against the canonical list of parameters.
#include "worker/model/layout.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "worker/model/minimind.h"

namespace mindforge {
namespace {

ModelConfig Tiny() {
  ModelConfig config;
  config.hidden_size = 32;
  config.num_hidden_layers = 2;
  config.vocab_size = 50;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.intermediate_size = 48;
  return config;
}

std::map<std::string, ParameterView> ByName(const ModelConfig& config, int64_t rank) {
  std::map<std::string, ParameterView> out;
  int64_t end = 0;
  for (const ParameterView& view : MinimindParameters(config, rank)) {
    EXPECT_EQ(view.offset, end) << view.name;
    end = view.offset + view.size;
    EXPECT_TRUE(out.emplace(view.name, view).second) << view.name << " twice";
  }
  return out;
}

ModelOffsets Offsets(const ModelConfig& config, int64_t rank) {
  return ModelOffsets(ModelSizes(config, rank), config.tie_word_embeddings);
}

TEST(Layout, PlacesADenseModelAsListed) {
  ModelConfig config = Tiny();
  config.tie_word_embeddings = false;
  config.qk_norm = true;
  config.head_dim = 10;
  const auto views = ByName(config, 0);
  const ModelOffsets offsets = Offsets(config, 0);
  const LayerOffsets& layer = offsets.layers[1];
  const std::string prefix = "model.layers.1.";
  EXPECT_EQ(layer.qkv, views.at(prefix + "self_attn.q_proj.weight").offset);
  EXPECT_EQ(layer.o, views.at(prefix + "self_attn.o_proj.weight").offset);
  EXPECT_EQ(layer.q_norm, views.at(prefix + "self_attn.q_norm.weight").offset);
  EXPECT_EQ(layer.k_norm, views.at(prefix + "self_attn.k_norm.weight").offset);
  EXPECT_EQ(layer.norm1, views.at(prefix + "input_layernorm.weight").offset);
  EXPECT_EQ(layer.norm2, views.at(prefix + "post_attention_layernorm.weight").offset);
  EXPECT_EQ(layer.mlp.gate_up, views.at(prefix + "mlp.gate_proj.weight").offset);
  EXPECT_EQ(layer.mlp.down, views.at(prefix + "mlp.down_proj.weight").offset);
  EXPECT_EQ(offsets.norm, views.at("model.norm.weight").offset);
  EXPECT_EQ(offsets.head, views.at("lm_head.weight").offset);
  EXPECT_EQ(offsets.end, config.ParameterCount());
  EXPECT_EQ(offsets.adapters, offsets.end);
  EXPECT_EQ(views.at(prefix + "self_attn.q_norm.weight").shape, std::vector<int64_t>{10});
}

TEST(Layout, PlacesExpertsRouterAndSharedExpertsAsListed) {
  ModelConfig config = Tiny();
  config.use_moe = true;
  config.n_routed_experts = 3;
  config.n_shared_experts = 2;
  const auto views = ByName(config, 0);
  const ModelOffsets offsets = Offsets(config, 0);
  const LayerOffsets& layer = offsets.layers[1];
  const std::string prefix = "model.layers.1.mlp.";
  ASSERT_EQ(layer.experts.size(), 3);
  ASSERT_EQ(layer.shared.size(), 2);
  EXPECT_EQ(layer.experts[2].gate_up, views.at(prefix + "experts.2.gate_proj.weight").offset);
  EXPECT_EQ(layer.experts[2].down, views.at(prefix + "experts.2.down_proj.weight").offset);
  EXPECT_EQ(layer.router, views.at(prefix + "gate.weight").offset);
  EXPECT_EQ(layer.shared[1].gate_up, views.at(prefix + "shared_experts.1.gate_proj.weight").offset);
  EXPECT_EQ(layer.shared[1].down, views.at(prefix + "shared_experts.1.down_proj.weight").offset);
  EXPECT_EQ(offsets.end, config.ParameterCount());
}

TEST(Layout, PlacesExpertsOfAWidthOfTheirOwn) {
  ModelConfig config = Tiny();
  config.use_moe = true;
  config.moe_family = MoeFamily::kMinimind3;
  config.n_shared_experts = 0;
  config.moe_intermediate_size = 24;
  const auto views = ByName(config, 0);
  const ModelOffsets offsets = Offsets(config, 0);
  const LayerOffsets& layer = offsets.layers[1];
  const std::string prefix = "model.layers.1.mlp.";
  EXPECT_EQ(views.at(prefix + "experts.3.up_proj.weight").shape, (std::vector<int64_t>{24, 32}));
  EXPECT_EQ(views.at(prefix + "experts.3.down_proj.weight").shape, (std::vector<int64_t>{32, 24}));
  EXPECT_EQ(layer.experts[3].down, views.at(prefix + "experts.3.down_proj.weight").offset);
  EXPECT_EQ(layer.router, views.at(prefix + "gate.weight").offset);
  EXPECT_TRUE(layer.shared.empty());
  EXPECT_EQ(offsets.end, config.ParameterCount());
  // An expert that is as wide as the hidden size carries adapters, whatever a dense MLP would be.
  config.moe_intermediate_size = 32;
  EXPECT_TRUE(ByName(config, 4).contains(prefix + "experts.0.gate_proj.lora.A.weight"));
  EXPECT_TRUE(Offsets(config, 4).layers[1].experts[0].gate_adapter.present());
}

TEST(Layout, PlacesAdaptersOfSquareProjectionsBehindEverything) {
  ModelConfig config = Tiny();
  config.num_key_value_heads = 4;
  config.intermediate_size = 32;
  config.use_moe = true;
  const auto views = ByName(config, 4);
  const ModelOffsets offsets = Offsets(config, 4);
  const LayerOffsets& layer = offsets.layers[1];
  const std::string prefix = "model.layers.1.";
  EXPECT_EQ(offsets.adapters, config.ParameterCount());
  EXPECT_EQ(layer.q_adapter.a, views.at(prefix + "self_attn.q_proj.lora.A.weight").offset);
  EXPECT_EQ(layer.q_adapter.b, views.at(prefix + "self_attn.q_proj.lora.B.weight").offset);
  EXPECT_EQ(layer.v_adapter.b, views.at(prefix + "self_attn.v_proj.lora.B.weight").offset);
  EXPECT_EQ(layer.o_adapter.a, views.at(prefix + "self_attn.o_proj.lora.A.weight").offset);
  EXPECT_EQ(layer.experts[3].up_adapter.a,
            views.at(prefix + "mlp.experts.3.up_proj.lora.A.weight").offset);
  EXPECT_EQ(layer.shared[0].down_adapter.b,
            views.at(prefix + "mlp.shared_experts.0.down_proj.lora.B.weight").offset);
  EXPECT_EQ(views.at(prefix + "self_attn.q_proj.lora.A.weight").shape,
            (std::vector<int64_t>{4, 32}));
  const ParameterView& last = views.at(prefix + "mlp.shared_experts.0.down_proj.lora.B.weight");
  EXPECT_EQ(last.shape, (std::vector<int64_t>{32, 4}));
  EXPECT_EQ(offsets.end, last.offset + last.size);
}

TEST(Layout, GivesNoAdapterToAProjectionThatIsNotSquare) {
  const auto views = ByName(Tiny(), 4);
  const LayerOffsets layer = Offsets(Tiny(), 4).layers[0];
  EXPECT_TRUE(layer.q_adapter.present());
  EXPECT_FALSE(layer.k_adapter.present());
  EXPECT_FALSE(layer.mlp.gate_adapter.present());
  EXPECT_FALSE(views.contains("model.layers.0.self_attn.k_proj.lora.A.weight"));
}

}  // namespace
}  // namespace mindforge
