#include "worker/formats/tensor_names.h"

#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TensorView View(std::string name, std::vector<int64_t> shape = {1}) {
  return {.name = std::move(name), .shape = std::move(shape)};
}

std::vector<std::string> Names(const std::vector<TensorView>& tensors) {
  const auto plain = PlainTensors(tensors);
  EXPECT_TRUE(plain.ok()) << plain.status();
  std::vector<std::string> names;
  for (const TensorView& tensor : plain.value_or(std::vector<TensorView>())) {
    names.push_back(tensor.name);
  }
  return names;
}

TEST(TensorNames, LoseWhatWrappersPutIntoThem) {
  EXPECT_EQ(PlainName("_orig_mod.module.model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(PlainName("module.module.model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(PlainName("model.layers.0._orig_mod.mlp.up_proj.weight"),
            "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(PlainName("_fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module.x"),
            "model.layers.0.x");
  EXPECT_EQ(PlainName("model.module.x"), "model.module.x");
  EXPECT_EQ(PlainName("my_module.x"), "my_module.x");
}

TEST(TensorNames, TablesAreLeftOutAndNothingElse) {
  EXPECT_THAT(
      Names({View("model.norm.weight"), View("model.freqs_cos", {4, 2}), View("freqs_sin", {4, 2}),
             View("pos_cis", {4, 2}), View("model.layers.0.self_attn.rotary_emb.inv_freq"),
             View("module.model.layers.0.self_attn.mask", {1, 1, 4, 4}),
             View("model.layers.0.attn.bias", {1, 1, 4, 4}),
             View("model.layers.0.self_attn.bias", {4}), View("model.extra.weight")}),
      ElementsAre("model.norm.weight", "model.layers.0.self_attn.bias", "model.extra.weight"));
}

TEST(TensorNames, ABareModelGetsItsName) {
  EXPECT_THAT(Names({View("embed_tokens.weight"), View("norm.weight"), View("lm_head.weight")}),
              ElementsAre("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"));
}

TEST(TensorNames, StacksOfExpertsAreTheExpertsOwn) {
  std::vector<float> gate_up(2 * 6 * 4);  // 2 experts, inner 3, hidden 4
  std::vector<float> down(2 * 4 * 3);
  std::iota(gate_up.begin(), gate_up.end(), 0.0f);
  std::iota(down.begin(), down.end(), 100.0f);
  const std::string mlp = "model.layers.1.mlp.experts.";
  const auto plain = PlainTensors(
      {{.name = mlp + "gate_up_proj", .shape = {2, 6, 4}, .data = gate_up.data(), .bytes = 192},
       {.name = mlp + "down_proj", .shape = {2, 4, 3}, .data = down.data(), .bytes = 96}});
  ASSERT_TRUE(plain.ok()) << plain.status();
  ASSERT_EQ(plain->size(), 6u);
  const struct {
    const char* name;
    std::vector<int64_t> shape;
    float first;
  } expected[] = {{"0.gate_proj.weight", {3, 4}, 0},   {"0.up_proj.weight", {3, 4}, 12},
                  {"1.gate_proj.weight", {3, 4}, 24},  {"1.up_proj.weight", {3, 4}, 36},
                  {"0.down_proj.weight", {4, 3}, 100}, {"1.down_proj.weight", {4, 3}, 112}};
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ((*plain)[i].name, mlp + expected[i].name);
    EXPECT_EQ((*plain)[i].shape, expected[i].shape);
    EXPECT_EQ((*plain)[i].bytes, 48);
    EXPECT_EQ(*static_cast<const float*>((*plain)[i].data), expected[i].first);
  }
}

TEST(TensorNames, WhatIsThereTwiceOrMeansAnotherThingIsRefused) {
  EXPECT_THAT(std::string(PlainTensors({View("module.a"), View("a")}).status().message()),
              HasSubstr("\"a\" is there twice"));
  const absl::Status old =
      PlainTensors({View("tok_embeddings.weight"), View("layers.0.attention.wq.weight")}).status();
  EXPECT_EQ(old.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(old.message()), HasSubstr("MiniMind's first releases"));
}

}  // namespace
}  // namespace mindforge
