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
#include "tests/formats/sample_model.h"
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

TEST(ModelFiles, GgufComesBackAsItWas) {
  for (const bool qk_norm : {false, true}) {
    SampleModel model;
    model.config.qk_norm = qk_norm;
    model.config.tie_word_embeddings = !qk_norm;
    ASSERT_TRUE(model.Export(ExportFormat::kGguf).ok());
    const auto imported =
        ImportModel({.from = model.dir.File("out/model-f32.gguf"), .out = model.dir.File("back")});
    ASSERT_TRUE(imported.ok()) << imported.status();
    ExpectSameTensors(model.dir.File("model"), model.dir.File("back"));
    const auto theirs = ReadTokenizerFiles(model.dir.File("model"));
    const auto ours = ReadTokenizerFiles(model.dir.File("back"));
    ASSERT_TRUE(ours.ok()) << ours.status();
    EXPECT_EQ(ours->tokenizer["model"]["vocab"], theirs->tokenizer["model"]["vocab"]);
    EXPECT_EQ(ours->tokenizer["added_tokens"], theirs->tokenizer["added_tokens"]);
    EXPECT_EQ(ours->chat_template, theirs->chat_template);
  }
}

TEST(ModelFiles, AnExportCarriesTheTemplateForTools) {
  SampleModel model;
  const ExportOptions options{
      .format = ExportFormat::kHuggingFace, .out = model.dir.File("out"), .overwrite = true};
  const std::string folder = model.Write();
  std::filesystem::create_directory(folder + "/additional_chat_templates");
  model.dir.Write("model/additional_chat_templates/tool_use.jinja", "{{ tools }}");
  for (int time = 0; time < 2; ++time) {
    const auto exported = ExportModel(folder, options);
    ASSERT_TRUE(exported.ok()) << exported.status();
    EXPECT_EQ(ReadBytes(options.out + "/additional_chat_templates/tool_use.jinja"), "{{ tools }}");
  }
}

TEST(ModelFiles, LlamaRowsAreReorderedByPairs) {
  SampleModel model(/*tokenizer=*/true);
  model.config.num_hidden_layers = 1;
  ASSERT_TRUE(model.Export(ExportFormat::kGguf).ok());
  const auto folder = OpenModelFolder(model.dir.File("model"));
  const auto file = GgufFile::Open(model.dir.File("out/model-f32.gguf"));
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
  SampleModel model(/*tokenizer=*/false);
  model.config.num_attention_heads = 8;
  model.config.num_key_value_heads = 2;
  for (const bool moe : {false, true}) {
    model.config.use_moe = moe;
    model.config.n_shared_experts = 2;
    model.config.n_routed_experts = 3;
    ASSERT_TRUE(ExportModel(model.Write(), {.format = ExportFormat::kPth,
                                            .out = model.dir.File("out"),
                                            .dtype = DType::kF32})
                    .ok());
    const std::string name = moe ? "out/pretrain_16_moe.pth" : "out/pretrain_16.pth";
    const auto imported = ImportModel(
        {.from = model.dir.File(name), .out = model.dir.File("back"), .overwrite = true});
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_THAT(imported->notes, Contains(HasSubstr("assumed: num_attention_heads 8")));
    EXPECT_THAT(imported->notes, Contains(HasSubstr("no tokenizer")));
    model.Write();
    ExpectSameTensors(model.dir.File("model"), model.dir.File("back"));
    EXPECT_EQ(OpenModelFolder(model.dir.File("back"))->prompt_style, "completion");
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
  SampleModel model(/*tokenizer=*/false);
  const absl::Status status = model.Export(ExportFormat::kGguf);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
  EXPECT_TRUE(fs::is_empty(model.dir.File("out")));
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
    SampleModel model;
    model.Write();
    Json changed = good;
    changed[Json::json_pointer(place)] = value;
    model.dir.Write("model/tokenizer.json", changed.dump());
    const auto exported = ExportModel(
        model.dir.File("model"), {.format = ExportFormat::kGguf, .out = model.dir.File("out")});
    EXPECT_EQ(exported.status().code(), absl::StatusCode::kInvalidArgument) << place;
    EXPECT_THAT(std::string(exported.status().message()), HasSubstr("tokenizer.json"));
  }
}

TEST(ModelFiles, FoldersAreReplacedOnlyWhenAskedAndWhenTheyAreModels) {
  SampleModel model;
  EXPECT_TRUE(model.Export(ExportFormat::kHuggingFace).ok());
  EXPECT_EQ(model.Export(ExportFormat::kHuggingFace).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(model.Export(ExportFormat::kHuggingFace, /*overwrite=*/true).ok());
  model.dir.Write("out/thesis.tex", "");
  absl::Status status = model.Export(ExportFormat::kHuggingFace, /*overwrite=*/true);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("thesis.tex"));
  fs::remove(model.dir.File("out/thesis.tex"));
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
  SampleModel model;
  const std::string from = model.Write();
  for (const ExportFormat format : {ExportFormat::kHuggingFace, ExportFormat::kPth}) {
    const std::string out = model.dir.File(format == ExportFormat::kPth ? "pth" : "hf");
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
  const std::string path = dir.File("model.gguf");
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
  const std::string first = dir.File("model.pth");
  const std::string second = dir.File("model_resume.pth");
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
  SampleModel model;
  const std::string from = model.Write();
  model.dir.Write("file", "");
  fs::create_directory(model.dir.File("folder"));
  fs::create_directory_symlink(model.dir.File("folder"), model.dir.File("link"));
  const FileSizeLimit no_work(0);
  for (const auto& [out, says] : std::vector<std::pair<std::string, std::string>>{
           {model.dir.File("file"), "is no folder"},
           {model.dir.File("link"), "is a link"},
           {model.dir.File("folder/."), "cannot be replaced"},
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
  SampleModel model;
  const pid_t child = ::fork();
  if (child == 0) {
    WriteFilesAtomically({{model.dir.File("out/model.pth"),
                           [](const std::string& temporary) {
                             std::ofstream(temporary) << "half";
                             ::_exit(0);
                             return absl::OkStatus();
                           }}},
                         /*overwrite=*/false)
        .IgnoreError();
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(std::distance(fs::directory_iterator(model.dir.File("out")), {}), 1);
  ASSERT_TRUE(model.Export(ExportFormat::kPth).ok());
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(model.dir.File("out"))) {
    left.push_back(entry.path().filename());
  }
  EXPECT_THAT(left, ElementsAre(EndsWith(".pth")));
}

TEST(ModelFiles, AFullDiskLeavesTheOldExport) {
  SampleModel model;
  ASSERT_TRUE(model.Export(ExportFormat::kHuggingFace).ok());
  const std::string before = ReadBytes(model.dir.File("out/model.safetensors"));
  {
    const FileSizeLimit limit(100'000);
    EXPECT_FALSE(
        ExportModel(model.dir.File("model"), {.out = model.dir.File("out"), .overwrite = true})
            .ok());
  }
  EXPECT_EQ(ReadBytes(model.dir.File("out/model.safetensors")), before);
}

}  // namespace
}  // namespace mindforge
