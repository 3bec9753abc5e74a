#include "worker/formats/lora.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/dtype_convert.h"

namespace mindforge {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kQuery[] = "model.layers.0.self_attn.q_proj";

// A model of ones, and adapters of which each element of B·A is 2·3·0.5 = 3.
class LoraTest : public ::testing::Test {
 protected:
  LoraTest() {
    config_.hidden_size = 8;
    config_.num_hidden_layers = 1;
    config_.num_attention_heads = 2;
    config_.num_key_value_heads = 1;
    config_.vocab_size = 16;
    config_.intermediate_size = 12;
    for (const ExpectedTensor& tensor : ExpectedTensors(config_)) {
      Add(tensor.name, tensor.shape, 1, &base_);
    }
    for (const char* module : {"q_proj", "o_proj"}) {
      const std::string name = std::string("model.layers.0.self_attn.") + module;
      Add(LoraAName(name), {2, 8}, 0.5, &adapters_);
      Add(LoraBName(name), {8, 2}, 3, &adapters_);
    }
  }

  void Add(const std::string& name, std::vector<int64_t> shape, float value,
           std::vector<TensorView>* to) {
    std::vector<float>& values = values_[name];
    values.assign(static_cast<size_t>(ElementCount(shape)), value);
    to->push_back({name, DType::kF32, std::move(shape), values.data(),
                   static_cast<int64_t>(values.size() * sizeof(float))});
  }

  // `own`: with the adapters inside.
  absl::StatusOr<ModelFolder> Open(bool own = false) {
    nlohmann::json json = ModelConfigToJson(config_);
    if (own) json[kLoraRankField] = 2;
    WriteBytes(dir_.File("config.json"), json.dump());
    std::vector<TensorView> all = base_;
    if (own) all.insert(all.end(), adapters_.begin(), adapters_.end());
    EXPECT_TRUE(WriteSafetensors(dir_.File("model.safetensors"), all, {}).ok());
    return OpenModelFolder(dir_.path());
  }

  static std::vector<float> Values(const ModelFolder& folder, const std::string& name) {
    return ToFloats(*folder.Find(name)).value();
  }

  TempDir dir_;
  ModelConfig config_;
  std::map<std::string, std::vector<float>> values_;
  std::vector<TensorView> base_;
  std::vector<TensorView> adapters_;
};

TEST_F(LoraTest, MergesFilesOfBothKinds) {
  for (const char* name : {"a.pth", "a.safetensors"}) {
    ASSERT_TRUE(WriteLora(dir_.File(name), adapters_, DType::kF16).ok());
    auto folder = Open();
    ASSERT_TRUE(folder.ok()) << folder.status();
    ASSERT_TRUE(MergeLora(dir_.File(name), &*folder).ok());
    const ModelFolder moved = *std::move(folder);
    EXPECT_THAT(Values(moved, std::string(kQuery) + ".weight"), Each(4));
    EXPECT_THAT(Values(moved, "model.layers.0.self_attn.o_proj.weight"), Each(4));
    EXPECT_THAT(Values(moved, "model.layers.0.self_attn.k_proj.weight"), Each(1));
  }
}

TEST_F(LoraTest, MergesTheAdaptersOfAFolder) {
  auto folder = Open(/*own=*/true);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->lora_rank, 2);
  EXPECT_THAT(LoraTensors(*folder), SizeIs(4));
  EXPECT_THAT(folder->warnings, ElementsAre(HasSubstr("tokenizer")));
  EXPECT_THAT(Values(*folder, std::string(kQuery) + ".weight"), Each(1));
  ASSERT_TRUE(MergeLora(&*folder).ok());
  EXPECT_EQ(folder->lora_rank, 0);
  EXPECT_THAT(LoraTensors(*folder), IsEmpty());
  EXPECT_THAT(Values(*folder, std::string(kQuery) + ".weight"), Each(4));
}

TEST_F(LoraTest, AdaptersThatNoConfigurationNamesAreRefused) {
  ASSERT_TRUE(Open(/*own=*/true).ok());
  WriteBytes(dir_.File("config.json"), ModelConfigToJson(config_).dump());
  const absl::Status status = OpenModelFolder(dir_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("have no place in the model: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(LoraAName(kQuery)));
}

TEST_F(LoraTest, AFileThatHoldsMoreThanAdaptersIsRefused) {
  const float norm[] = {1, 1, 1, 1, 1, 1, 1, 1};
  std::vector<TensorView> tensors = adapters_;
  tensors.push_back(
      {.name = "model.norm.weight", .shape = {8}, .data = norm, .bytes = sizeof(norm)});
  ASSERT_TRUE(WriteSafetensors(dir_.File("more.safetensors"), tensors, {}).ok());
  auto folder = Open(/*own=*/false);
  ASSERT_TRUE(folder.ok()) << folder.status();
  const absl::Status status = MergeLora(dir_.File("more.safetensors"), &*folder);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.norm.weight"));
}

TEST_F(LoraTest, AFolderMustHoldTheAdaptersThatItPromises) {
  adapters_.pop_back();
  const auto folder = Open(/*own=*/true);
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(folder.status().message()), HasSubstr("o_proj.lora.B.weight is missing"));
}

TEST_F(LoraTest, StripsThePrefixOfParallelTraining) {
  for (TensorView& view : adapters_) view.name = "module." + view.name;
  ASSERT_TRUE(WriteLora(dir_.File("a.pth"), adapters_, DType::kF32).ok());
  auto folder = Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_TRUE(MergeLora(dir_.File("a.pth"), &*folder).ok());
  EXPECT_THAT(Values(*folder, std::string(kQuery) + ".weight"), Each(4));
}

TEST_F(LoraTest, ListsEveryModuleThatDoesNotFit) {
  Add("model.layers.7.self_attn.q_proj.lora.A.weight", {2, 8}, 0, &adapters_);
  Add("model.layers.7.self_attn.q_proj.lora.B.weight", {8, 2}, 0, &adapters_);
  Add("model.layers.0.self_attn.v_proj.lora.A.weight", {2, 8}, 0, &adapters_);
  Add("model.layers.0.self_attn.k_proj.lora.A.weight", {2, 8}, 0, &adapters_);
  Add("model.layers.0.self_attn.k_proj.lora.B.weight", {8, 2}, 0, &adapters_);
  ASSERT_TRUE(WriteLora(dir_.File("a.safetensors"), adapters_, DType::kF32).ok());
  auto folder = Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  const absl::Status merged = MergeLora(dir_.File("a.safetensors"), &*folder);
  EXPECT_EQ(merged.code(), absl::StatusCode::kInvalidArgument);
  for (const char* says :
       {"the model has no model.layers.7.self_attn.q_proj", "v_proj.lora.B.weight is missing",
        "k_proj has A [2, 8] and B [8, 2] for a weight of [4, 8]"}) {
    EXPECT_THAT(std::string(merged.message()), HasSubstr(says));
  }
  EXPECT_THAT(Values(*folder, std::string(kQuery) + ".weight"), Each(1));
}

TEST_F(LoraTest, AFileWithoutAdaptersIsRefused) {
  auto folder = Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  const absl::Status merged = MergeLora(dir_.File("model.safetensors"), &*folder);
  EXPECT_EQ(merged.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(merged.message()), HasSubstr("no LoRA adapters"));
  EXPECT_FALSE(WriteLora(dir_.File("x.pth"), {}, DType::kF32).ok());
}

TEST(LoraFileName, IsTheReferences) { EXPECT_EQ(LoraFileName("law", 512), "lora/law_512.pth"); }

TEST_F(LoraTest, ReadsThePromptStyle) {
  auto json = ModelConfigToJson(config_);
  ASSERT_TRUE(Open().ok());
  json[kPromptStyleField] = "chat";
  WriteBytes(dir_.File("config.json"), json.dump());
  EXPECT_EQ(OpenModelFolder(dir_.path())->prompt_style, "chat");
  json[kPromptStyleField] = "poem";
  WriteBytes(dir_.File("config.json"), json.dump());
  EXPECT_FALSE(OpenModelFolder(dir_.path()).ok());
}

}  // namespace
}  // namespace mindforge
