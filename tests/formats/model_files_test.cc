// Exports and imports without Python; tests/parity/files opens them with the programs they are for.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/export.h"
#include "worker/formats/gguf.h"
#include "worker/formats/gguf_model.h"
#include "worker/formats/import.h"
#include "worker/formats/model_folder_writer.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {
namespace {

namespace fs = std::filesystem;

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using Json = nlohmann::json;

// A small model on disk, each element of its tensors another number.
class Model {
 public:
  explicit Model(bool tokenizer = true) : with_tokenizer_(tokenizer) {
    config.hidden_size = 16;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 1;
    config.vocab_size = tokenizer ? 6400 : 16;
    config.intermediate_size = 12;
  }

  std::string Write() {
    std::map<std::string, std::vector<float>> values;
    ModelFolderContents contents{.config = ModelConfigToJson(config),
                                 .generation_config = DefaultGenerationConfig(config)};
    float next = 0;
    for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
      std::vector<float>& to = values[tensor.name];
      to.resize(static_cast<size_t>(ElementCount(tensor.shape)));
      for (float& value : to) value = next = next > 1000 ? 0 : next + 0.25f;
      contents.tensors.push_back({tensor.name, DType::kF32, tensor.shape, to.data(),
                                  static_cast<int64_t>(to.size() * sizeof(float))});
    }
    if (with_tokenizer_) contents.texts = ReadTokenizerFiles(TestData("tokenizer"))->texts;
    EXPECT_TRUE(WriteModelFolder(dir.At("model"), contents, /*overwrite=*/true).ok());
    return dir.At("model");
  }

  absl::Status Export(ExportFormat format, bool overwrite = false) {
    return ExportModel(Write(), {.format = format, .out = dir.At("out"), .overwrite = overwrite})
        .status();
  }

  TempDir dir;
  ModelConfig config;

 private:
  const bool with_tokenizer_;
};

void ExpectSameTensors(const std::string& a, const std::string& b) {
  const auto first = OpenModelFolder(a);
  const auto second = OpenModelFolder(b);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->config, second->config);
  for (const ExpectedTensor& tensor : ExpectedTensors(first->config)) {
    const TensorView& x = *first->Find(tensor.name);
    const TensorView& y = *second->Find(tensor.name);
    ASSERT_EQ(x.dtype, y.dtype);
    ASSERT_EQ(std::memcmp(x.data, y.data, static_cast<size_t>(x.bytes)), 0) << tensor.name;
  }
}

TEST(ModelFiles, GgufComesBackAsItWas) {
  for (const bool qk_norm : {false, true}) {
    Model model;
    model.config.qk_norm = qk_norm;
    model.config.tie_word_embeddings = !qk_norm;
    ASSERT_TRUE(model.Export(ExportFormat::kGguf).ok());
    const auto imported =
        ImportModel({.from = model.dir.At("out/model-f32.gguf"), .out = model.dir.At("back")});
    ASSERT_TRUE(imported.ok()) << imported.status();
    ExpectSameTensors(model.dir.At("model"), model.dir.At("back"));
    const auto theirs = ReadTokenizerFiles(model.dir.At("model"));
    const auto ours = ReadTokenizerFiles(model.dir.At("back"));
    ASSERT_TRUE(ours.ok()) << ours.status();
    EXPECT_EQ(ours->tokenizer["model"]["vocab"], theirs->tokenizer["model"]["vocab"]);
    EXPECT_EQ(ours->tokenizer["added_tokens"], theirs->tokenizer["added_tokens"]);
    EXPECT_EQ(ours->chat_template, theirs->chat_template);
  }
}

TEST(ModelFiles, LlamaRowsAreReorderedByPairs) {
  Model model(/*tokenizer=*/true);
  model.config.num_hidden_layers = 1;
  ASSERT_TRUE(model.Export(ExportFormat::kGguf).ok());
  const auto folder = OpenModelFolder(model.dir.At("model"));
  const auto file = GgufFile::Open(model.dir.At("out/model-f32.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto row = [](const TensorView& view, int64_t index) {
    return static_cast<const float*>(view.data)[index * view.shape[1]];
  };
  const TensorView& ours = *folder->Find("model.layers.0.self_attn.q_proj.weight");
  for (const TensorView& theirs : (*file)->tensors()) {
    if (theirs.name != "blk.0.attn_q.weight") continue;
    // Two heads of 8 rows: halves 0-3 and 4-7 become neighbours.
    const int64_t from[] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
    for (int64_t i = 0; i < 16; ++i) EXPECT_EQ(row(theirs, i), row(ours, from[i])) << i;
    return;
  }
  FAIL() << "no blk.0.attn_q.weight";
}

TEST(ModelFiles, PthComesBackWithItsShapeInferred) {
  Model model(/*tokenizer=*/false);
  model.config.num_attention_heads = 8;
  model.config.num_key_value_heads = 2;
  for (const bool moe : {false, true}) {
    model.config.use_moe = moe;
    model.config.n_shared_experts = 2;
    model.config.n_routed_experts = 3;
    ASSERT_TRUE(ExportModel(model.Write(), {.format = ExportFormat::kPth,
                                            .out = model.dir.At("out"),
                                            .dtype = DType::kF32})
                    .ok());
    const std::string name = moe ? "out/pretrain_16_moe.pth" : "out/pretrain_16.pth";
    const auto imported =
        ImportModel({.from = model.dir.At(name), .out = model.dir.At("back"), .overwrite = true});
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_THAT(imported->notes, Contains(HasSubstr("assumed: num_attention_heads 8")));
    EXPECT_THAT(imported->notes, Contains(HasSubstr("no tokenizer")));
    model.Write();
    ExpectSameTensors(model.dir.At("model"), model.dir.At("back"));
    EXPECT_EQ(OpenModelFolder(model.dir.At("back"))->prompt_style, "completion");
  }
}

TEST(ModelFiles, WhatAFormatCannotHoldIsRefusedWithTheRemedy) {
  ModelConfig config;
  config.inference_rope_scaling = true;
  for (const ExportFormat format : {ExportFormat::kHuggingFace, ExportFormat::kGguf}) {
    const absl::Status status = CheckExport(config, format);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("export as pth"));
  }
  EXPECT_TRUE(CheckExport(config, ExportFormat::kPth).ok());
  config = {};
  config.use_moe = true;
  EXPECT_FALSE(CheckExport(config, ExportFormat::kGguf).ok());
  EXPECT_TRUE(CheckExport(config, ExportFormat::kHuggingFace).ok());
  config = {};
  config.rope_scaling = {.type = RopeScaling::Type::kYarn, .factor = 16, .beta_fast = 32};
  EXPECT_TRUE(CheckExport(config, ExportFormat::kGguf).ok());
  config.rope_scaling->beta_fast = 16;
  EXPECT_FALSE(CheckExport(config, ExportFormat::kGguf).ok());
  EXPECT_TRUE(CheckExport(config, ExportFormat::kHuggingFace).ok());
  config.rope_theta = 100;  // the ramp would end beyond the last frequency
  EXPECT_FALSE(CheckExport(config, ExportFormat::kHuggingFace).ok());
}

TEST(ModelFiles, AGgufWithoutTokenizerIsRefusedAndLeavesNothing) {
  Model model(/*tokenizer=*/false);
  const absl::Status status = model.Export(ExportFormat::kGguf);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
  EXPECT_TRUE(fs::is_empty(model.dir.At("out")));
}

TEST(ModelFiles, TokenizersThatLlamaCppSplitsOtherwiseAreRefused) {
  const Json good = ReadTokenizerFiles(TestData("tokenizer"))->tokenizer;
  const std::vector<std::pair<std::string, Json>> changes = {
      {"/normalizer", {{"type", "NFC"}}},
      {"/pre_tokenizer/use_regex", false},
      {"/pre_tokenizer/add_prefix_space", true},
      {"/pre_tokenizer/type", "Whitespace"},
      {"/model/type", "WordPiece"},
      {"/model/ignore_merges", true}};
  for (const auto& [place, value] : changes) {
    Model model;
    model.Write();
    Json changed = good;
    changed[Json::json_pointer(place)] = value;
    model.dir.Write("model/tokenizer.json", changed.dump());
    const auto exported = ExportModel(model.dir.At("model"),
                                      {.format = ExportFormat::kGguf, .out = model.dir.At("out")});
    EXPECT_EQ(exported.status().code(), absl::StatusCode::kInvalidArgument) << place;
    EXPECT_THAT(std::string(exported.status().message()), HasSubstr("tokenizer.json"));
  }
}

TEST(ModelFiles, FoldersAreReplacedOnlyWhenAskedAndWhenTheyAreModels) {
  Model model;
  EXPECT_TRUE(model.Export(ExportFormat::kHuggingFace).ok());
  EXPECT_EQ(model.Export(ExportFormat::kHuggingFace).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(model.Export(ExportFormat::kHuggingFace, /*overwrite=*/true).ok());
  model.dir.Write("out/thesis.tex", "");
  absl::Status status = model.Export(ExportFormat::kHuggingFace, /*overwrite=*/true);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("thesis.tex"));
  fs::remove(model.dir.At("out/thesis.tex"));
  model.dir.Write("out/MANIFEST.json", "{}");
  status = model.Export(ExportFormat::kHuggingFace, /*overwrite=*/true);
  EXPECT_THAT(std::string(status.message()), HasSubstr("checkpoint"));
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(model.dir.path())) {
    left.push_back(entry.path().filename());
  }
  EXPECT_THAT(left, UnorderedElementsAre("model", "out"));
}

TEST(ModelFiles, OfExportsToOnePlaceAtOnceOneSucceeds) {
  Model model;
  const std::string from = model.Write();
  for (const ExportFormat format : {ExportFormat::kHuggingFace, ExportFormat::kPth}) {
    const std::string out = model.dir.At(format == ExportFormat::kPth ? "pth" : "hf");
    std::vector<absl::Status> results(4);
    std::vector<std::thread> threads;
    for (absl::Status& result : results) {
      threads.emplace_back(
          [&] { result = ExportModel(from, {.format = format, .out = out}).status(); });
    }
    for (std::thread& thread : threads) thread.join();
    int done = 0;
    for (const absl::Status& result : results) {
      EXPECT_TRUE(result.ok() || absl::IsAlreadyExists(result)) << result;
      done += result.ok();
    }
    EXPECT_EQ(done, 1);
  }
}

TEST(ModelFiles, AFileThatAppearsWhileOneIsWrittenIsKept) {
  const TempDir dir;
  const std::string path = dir.At("model.gguf");
  const absl::Status status =
      WriteFilesAtomically({{path,
                             [&](const std::string& temporary) {
                               EXPECT_THAT(temporary, EndsWith("/model.gguf"));
                               std::ofstream(temporary) << "ours";
                               std::ofstream(path) << "theirs";
                               return absl::OkStatus();
                             }}},
                           /*overwrite=*/false);
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_EQ(ReadBytes(path), "theirs");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(ModelFiles, OfTwoFilesBothAreWrittenOrNone) {
  const TempDir dir;
  const auto text = [](const std::string& content) {
    return [content](const std::string& temporary) {
      std::ofstream(temporary) << content;
      return absl::OkStatus();
    };
  };
  const std::string first = dir.At("model.pth");
  const std::string second = dir.At("model_resume.pth");
  EXPECT_FALSE(WriteFilesAtomically(
                   {{first, text("a")},
                    {second, [](const std::string&) { return absl::InternalError("full"); }}},
                   /*overwrite=*/false)
                   .ok());
  EXPECT_TRUE(fs::is_empty(dir.path()));
  const auto appears = [&](const std::string& temporary) {
    std::ofstream(temporary) << "ours";
    std::ofstream(second) << "theirs";
    return absl::OkStatus();
  };
  EXPECT_TRUE(absl::IsAlreadyExists(
      WriteFilesAtomically({{first, text("a")}, {second, appears}}, /*overwrite=*/false)));
  EXPECT_FALSE(fs::exists(first));
  EXPECT_TRUE(absl::IsAlreadyExists(WriteFilesAtomically(
      {{first, [](const std::string&) { return absl::InternalError("was begun"); }},
       {second, text("b")}},
      /*overwrite=*/false)))
      << "both places are looked at before any work";
  EXPECT_TRUE(WriteFilesAtomically({{first, text("a")}, {second, text("b")}}, true).ok());
  EXPECT_EQ(ReadBytes(first) + ReadBytes(second), "ab");
}

TEST(ModelFiles, PlacesThatNoFolderCanTakeAreRefusedBeforeTheWork) {
  Model model;
  const std::string from = model.Write();
  model.dir.Write("file", "");
  fs::create_directory(model.dir.At("folder"));
  fs::create_directory_symlink(model.dir.At("folder"), model.dir.At("link"));
  const FileSizeLimit no_work(0);
  for (const auto& [out, says] : std::vector<std::pair<std::string, std::string>>{
           {model.dir.At("file"), "is no folder"},
           {model.dir.At("link"), "is a link"},
           {model.dir.At("folder/."), "cannot be replaced"},
           {"..", "cannot be replaced"},
           {"/proc", "mount point"}}) {
    for (const bool overwrite : {false, true}) {
      const absl::Status status = ExportModel(from, {.out = out, .overwrite = overwrite}).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(says));
    }
  }
}

TEST(ModelFiles, WhatADeadExportLeftIsRemovedByTheNext) {
  Model model;
  const pid_t child = ::fork();
  if (child == 0) {
    WriteFilesAtomically({{model.dir.At("out/model.pth"),
                           [](const std::string& temporary) {
                             std::ofstream(temporary) << "half";
                             ::_exit(0);
                             return absl::OkStatus();
                           }}},
                         /*overwrite=*/false)
        .IgnoreError();
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(std::distance(fs::directory_iterator(model.dir.At("out")), {}), 1);
  ASSERT_TRUE(model.Export(ExportFormat::kPth).ok());
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(model.dir.At("out"))) {
    left.push_back(entry.path().filename());
  }
  EXPECT_THAT(left, ElementsAre(EndsWith(".pth")));
}

TEST(ModelFiles, AFullDiskLeavesTheOldExport) {
  Model model;
  ASSERT_TRUE(model.Export(ExportFormat::kHuggingFace).ok());
  const std::string before = ReadBytes(model.dir.At("out/model.safetensors"));
  {
    const FileSizeLimit limit(100'000);
    EXPECT_FALSE(
        ExportModel(model.dir.At("model"), {.out = model.dir.At("out"), .overwrite = true}).ok());
  }
  EXPECT_EQ(ReadBytes(model.dir.At("out/model.safetensors")), before);
}

TEST(ModelFiles, InferenceOfAShapeSaysWhatIsMissing) {
  std::vector<std::string> notes;
  EXPECT_THAT(std::string(InferModelConfig({}, {}, &notes).status().message()),
              HasSubstr("model.embed_tokens.weight is missing"));
  const TensorView vector{.name = "model.embed_tokens.weight", .shape = {3}};
  EXPECT_THAT(std::string(InferModelConfig({vector}, {}, &notes).status().message()),
              HasSubstr("has shape [3]"));
}

TEST(GgufFile, NoTruncationOrChangedByteIsTrusted) {
  Model model(/*tokenizer=*/false);
  model.config.num_hidden_layers = 1;
  const auto folder = OpenModelFolder(model.Write());
  ASSERT_TRUE(folder.ok()) << folder.status();
  GgufMetadata metadata;
  metadata.Text("general.architecture", "llama");
  metadata.Texts("tokenizer.ggml.tokens", {"a", "b"});
  metadata.Float32("llama.rope.freq_base", 10000);
  metadata.Uint32("llama.block_count", 1);
  const std::string path = model.dir.At("x.gguf");
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
