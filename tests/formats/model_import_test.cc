// Imports of models, and what is refused of GGUF files.
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/sample_model.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/gguf.h"
#include "worker/formats/gguf_model.h"
#include "worker/formats/import.h"
#include "worker/formats/pth.h"

namespace mindforge {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST(ModelImport, EveryEndOfTextIsKept) {
  SampleModel model(/*tokenizer=*/false);
  Json config = Json::parse(ReadBytes(model.Write() + "/config.json"));
  config["eos_token_id"] = {2, 7};
  model.dir.Write("model/config.json", config.dump());
  const std::string generation = model.dir.File("model/generation_config.json");
  for (const std::string text : {"", R"({"top_k": 3})"}) {
    fs::remove(generation);
    if (!text.empty()) model.dir.Write("model/generation_config.json", text);
    ASSERT_TRUE(
        ImportModel(
            {.from = model.dir.File("model"), .out = model.dir.File("in"), .overwrite = true})
            .ok());
    ASSERT_TRUE(
        ExportModel(model.dir.File("model"), {.out = model.dir.File("out"), .overwrite = true})
            .ok());
    for (const char* folder : {"in", "out"}) {
      EXPECT_THAT(OpenModelFolder(model.dir.File(folder))->generation.eos_token_ids,
                  ElementsAre(2, 7));
    }
  }
}

TEST(ModelImport, NamesOfParallelAndCompiledTrainingAreTaken) {
  SampleModel model(/*tokenizer=*/false);
  model.config.num_attention_heads = 8;
  model.config.num_key_value_heads = 2;
  const auto folder = OpenModelFolder(model.Write());
  ASSERT_TRUE(folder.ok()) << folder.status();
  std::vector<TensorView> tensors;
  for (const ExpectedTensor& tensor : ExpectedTensors(model.config)) {
    tensors.push_back(*folder->Find(tensor.name));
    tensors.back().name = "_orig_mod.module." + tensor.name;
  }
  const std::string path = model.dir.File("pretrain_16.pth");
  ASSERT_TRUE(WriteStateDictPth(path, tensors, DType::kF32).ok());
  const auto imported = ImportModel({.from = path, .out = model.dir.File("back")});
  ASSERT_TRUE(imported.ok()) << imported.status();
  ExpectSameTensors(model.dir.File("model"), model.dir.File("back"));
}

TEST(ModelImport, FlagsThatWouldNotBeHeardAreRefused) {
  SampleModel model;
  ASSERT_TRUE(model.Export(ExportFormat::kGguf).ok());
  for (const char* from : {"model", "out/model-f32.gguf"}) {
    const auto status = ImportModel({.from = model.dir.File(from),
                                     .out = model.dir.File("back"),
                                     .shape = {.rope_theta = 1e4}})
                            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("--rope-theta"));
  }
  model.dir.Write("a.pth", "");
  const auto both =
      ImportModel({.from = model.dir.File("a.pth"),
                   .out = model.dir.File("back"),
                   .shape = {.config_path = "config.json", .num_attention_heads = 8}});
  EXPECT_THAT(std::string(both.status().message()), HasSubstr("--num-attention-heads"));
  fs::create_directory(model.dir.File("weights"));
  model.dir.Write("weights/full_sft_16.pth", "");
  const auto folder =
      ImportModel({.from = model.dir.File("weights"), .out = model.dir.File("back")});
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(folder.status().message()),
              HasSubstr("--from " + model.dir.File("weights/full_sft_16.pth")));
}

TEST(ModelImport, InferenceOfAShapeSaysWhatIsMissing) {
  std::vector<std::string> notes;
  EXPECT_THAT(std::string(InferModelConfig({}, {}, &notes).status().message()),
              HasSubstr("model.embed_tokens.weight is missing"));
  const TensorView vector{.name = "model.embed_tokens.weight", .shape = {3}};
  EXPECT_THAT(std::string(InferModelConfig({vector}, {}, &notes).status().message()),
              HasSubstr("has shape [3]"));
}

// A GGUF file that says nothing but this.
absl::Status ImportGgufOf(const std::function<void(GgufMetadata*)>& say) {
  SampleModel model(/*tokenizer=*/false);
  const auto folder = OpenModelFolder(model.Write());
  GgufMetadata metadata;
  say(&metadata);
  const std::string path = model.dir.File("x.gguf");
  EXPECT_TRUE(WriteGguf(path, metadata, {{*folder->Find("model.norm.weight"), DType::kF32}}).ok());
  return ReadGgufModel(path).status();
}

TEST(GgufFile, WhatIsNotComputedIsRefusedByName) {
  for (const std::string key : {"rope.dimension_count", "attention.value_length"}) {
    const absl::Status status = ImportGgufOf([&](GgufMetadata* metadata) {
      metadata->Text("general.architecture", "llama");
      for (const auto& [name, value] : std::map<std::string, int64_t>{{"block_count", 1},
                                                                      {"context_length", 64},
                                                                      {"embedding_length", 16},
                                                                      {"feed_forward_length", 12},
                                                                      {"attention.head_count", 2},
                                                                      {key, 4}}) {
        metadata->Uint32("llama." + name, value);
      }
      metadata->Float32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("llama." + key + " is not the 8"));
  }
  const absl::Status status = ImportGgufOf([](GgufMetadata* metadata) {
    metadata->Text("general.architecture", "gpt\xff");  // no UTF-8
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("general.architecture is \"gpt"));
}

TEST(GgufFile, NoTruncationOrChangedByteIsTrusted) {
  SampleModel model(/*tokenizer=*/false);
  model.config.num_hidden_layers = 1;
  const auto folder = OpenModelFolder(model.Write());
  ASSERT_TRUE(folder.ok()) << folder.status();
  GgufMetadata metadata;
  metadata.Text("general.architecture", "llama");
  metadata.Texts("tokenizer.ggml.tokens", {"a", "b"});
  metadata.Float32("llama.rope.freq_base", 10000);
  metadata.Uint32("llama.block_count", 1);
  const std::string path = model.dir.File("x.gguf");
  ASSERT_TRUE(WriteGguf(path, metadata, {{*folder->Find("model.norm.weight"), DType::kF32}}).ok());
  ASSERT_TRUE(GgufFile::Open(path).ok());
  const std::string whole = ReadBytes(path);
  for (size_t length = 0; length < whole.size(); ++length) {
    ASSERT_FALSE(GgufFile::Open(model.dir.Write("cut.gguf", whole.substr(0, length))).ok());
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
    ReadGgufModel(model.dir.Write("flip.gguf", changed)).status().IgnoreError();
  }
}

}  // namespace
}  // namespace mindforge
