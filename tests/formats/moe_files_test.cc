// MiniMind-3's mixture of experts to other programs' files and back.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/sample_model.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/gguf.h"
#include "worker/formats/gguf_model.h"
#include "worker/formats/import.h"

namespace mindforge {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using Json = nlohmann::json;

void MakeThirdMixture(ModelConfig* config) {
  config->qk_norm = true;
  config->rms_norm_eps = 1e-6;
  config->use_moe = true;
  config->moe_family = MoeFamily::kMinimind3;
  config->moe_intermediate_size = 6;
  config->n_routed_experts = 3;
  config->n_shared_experts = 0;
  config->seq_aux = false;
  config->aux_loss_alpha = 1e-3;
  config->num_experts_per_tok = 2;
}

Json ConfigOf(const SampleModel& model, const std::string& folder) {
  return Json::parse(ReadBytes(model.dir.File(folder + "/config.json")));
}

TEST(MoeFiles, ComesBackFromAHuggingFaceFolder) {
  SampleModel model(/*tokenizer=*/false);
  MakeThirdMixture(&model.config);
  ASSERT_TRUE(model.Export(ExportFormat::kHuggingFace).ok());
  const Json config = ConfigOf(model, "out");
  EXPECT_EQ(config["model_type"], "qwen3_moe");
  EXPECT_EQ(config["num_experts"], 3);
  EXPECT_EQ(config["moe_intermediate_size"], 6);
  EXPECT_EQ(config["norm_topk_prob"], true);
  ExpectSameTensors(model.dir.File("model"), model.dir.File("out"));
}

TEST(MoeFiles, ComesBackFromMiniMindsOwnFolder) {
  for (const bool scaled : {false, true}) {
    SampleModel model(/*tokenizer=*/false);
    MakeThirdMixture(&model.config);
    if (scaled) {
      model.config.rope_scaling =
          RopeScaling{.type = RopeScaling::Type::kYarn, .factor = 16, .beta_fast = 32};
    }
    const absl::Status status = model.Export(ExportFormat::kMinimind);
    ASSERT_TRUE(status.ok()) << status;
    const Json config = ConfigOf(model, "out");
    EXPECT_EQ(config["model_type"], "minimind");
    EXPECT_EQ(config["inference_rope_scaling"], scaled);
    EXPECT_FALSE(config.contains("qk_norm"));  // MiniMind-3 has no such field
    ExpectSameTensors(model.dir.File("model"), model.dir.File("out"));
  }
}

TEST(MoeFiles, MiniMindsOwnFolderIsRefusedWhereItsCodeComputesOtherwise) {
  ModelConfig config;
  EXPECT_TRUE(CheckExport(config, ExportFormat::kMinimind).ok());
  config.rope_scaling = RopeScaling{.factor = 8};
  EXPECT_THAT(std::string(CheckExport(config, ExportFormat::kMinimind).message()),
              HasSubstr("MiniMind2's code stretches positions by"));
  config = {};
  config.use_moe = true;
  config.qk_norm = true;
  EXPECT_FALSE(CheckExport(config, ExportFormat::kMinimind).ok());
  config = {};
  config.head_dim = 32;
  EXPECT_FALSE(CheckExport(config, ExportFormat::kMinimind).ok());
}

TEST(MoeFiles, ComesBackFromAPthWithItsReleaseAssumed) {
  SampleModel model(/*tokenizer=*/false);
  MakeThirdMixture(&model.config);
  model.config.num_experts_per_tok = 1;
  model.config.aux_loss_alpha = 5e-4;
  model.config.intermediate_size = model.config.moe_intermediate_size;  // a .pth cannot say it
  ASSERT_TRUE(ExportModel(model.Write(), {.format = ExportFormat::kPth,
                                          .out = model.dir.File("out"),
                                          .dtype = DType::kF32})
                  .ok());
  const auto imported = ImportModel(
      {.from = model.dir.File("out/pretrain_16_moe.pth"), .out = model.dir.File("back")});
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_THAT(imported->notes, Contains(HasSubstr("assumed: MiniMind-3's mixture")));
  EXPECT_THAT(imported->notes, Contains(HasSubstr("assumed: num_experts_per_tok 1")));
  ExpectSameTensors(model.dir.File("model"), model.dir.File("back"));
  // A configuration says otherwise.
  const auto said = ImportModel({.from = model.dir.File("out/pretrain_16_moe.pth"),
                                 .out = model.dir.File("said"),
                                 .shape = {.config_path = model.dir.Write("c.json", R"({
      "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
      "num_key_value_heads": 1, "vocab_size": 16, "intermediate_size": 6, "use_moe": true,
      "n_routed_experts": 3, "n_shared_experts": 0})")}});
  ASSERT_TRUE(said.ok()) << said.status();
  EXPECT_EQ(said->config.moe_family, MoeFamily::kMinimind2);
  EXPECT_TRUE(said->config.qk_norm);  // by the tensors
}

TEST(MoeFiles, ComesBackFromGgufInStacksOfExperts) {
  SampleModel model;
  MakeThirdMixture(&model.config);
  const absl::Status status = model.Export(ExportFormat::kGguf);
  ASSERT_TRUE(status.ok()) << status;
  const auto file = GgufFile::Open(model.dir.File("out/model-f32.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata()["general.architecture"], "qwen3moe");
  EXPECT_EQ((*file)->metadata()["qwen3moe.expert_used_count"], 2);
  bool found = false;
  for (const TensorView& tensor : (*file)->tensors()) {
    if (tensor.name != "blk.1.ffn_down_exps.weight") continue;
    found = true;
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{3, 16, 6}));
  }
  EXPECT_TRUE(found);
  const auto imported =
      ImportModel({.from = model.dir.File("out/model-f32.gguf"), .out = model.dir.File("back")});
  ASSERT_TRUE(imported.ok()) << imported.status();
  ExpectSameTensors(model.dir.File("model"), model.dir.File("back"));
}

TEST(MoeFiles, GgufIsRefusedWhereLlamaCppComputesOtherwise) {
  ModelConfig config;
  MakeThirdMixture(&config);
  EXPECT_TRUE(CheckGgufExport(config).ok());
  config.norm_topk_prob = false;
  EXPECT_THAT(std::string(CheckGgufExport(config).message()), HasSubstr("norm_topk_prob"));
  MakeThirdMixture(&config);
  config.norm_topk_prob = true;
  config.qk_norm = false;
  EXPECT_THAT(std::string(CheckGgufExport(config).message()), HasSubstr("qk_norm"));
}

}  // namespace
}  // namespace mindforge
