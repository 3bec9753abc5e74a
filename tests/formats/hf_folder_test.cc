#include "worker/formats/hf_folder.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

// A model folder whose tensors can be changed before it is written.
class Folder {
 public:
  explicit Folder(bool tied = true) {
    config.hidden_size = 8;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 1;
    config.vocab_size = 16;
    config.intermediate_size = 12;
    config.tie_word_embeddings = tied;
    for (const ExpectedTensor& tensor : ExpectedTensors(config)) shapes[tensor.name] = tensor.shape;
  }

  void Write(const std::string& file = "model.safetensors") {
    WriteBytes(dir.File("config.json"), ModelConfigToJson(config).dump());
    std::vector<std::vector<float>> data;
    std::vector<TensorView> tensors;
    for (const auto& [name, shape] : shapes) {
      data.emplace_back(ElementCount(shape), fill[name]);
      tensors.push_back({name, DType::kF32, shape, data.back().data(),
                         static_cast<int64_t>(data.back().size() * sizeof(float))});
    }
    ASSERT_TRUE(WriteSafetensors(dir.File(file), tensors, {}).ok());
  }

  absl::StatusOr<ModelFolder> Open() { return OpenModelFolder(dir.path()); }

  std::string Problem(absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto folder = Open();
    EXPECT_EQ(folder.status().code(), code) << folder.status();
    return std::string(folder.status().message());
  }

  TempDir dir;
  ModelConfig config;
  std::map<std::string, std::vector<int64_t>> shapes;
  std::map<std::string, float> fill;
};

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

TEST(ModelFolder, OpensWithTheHeadTiedOrNot) {
  Folder tied;
  tied.Write();
  auto folder = tied.Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->Find(kHead), folder->Find(kEmbedding));
  EXPECT_THAT(folder->generation.eos_token_ids, ElementsAre(2));
  EXPECT_THAT(folder->warnings, ElementsAre(HasSubstr("tokenizer.json")));

  Folder free(false);
  free.Write();
  folder = free.Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_NE(folder->Find(kHead), folder->Find(kEmbedding));
}

TEST(ModelFolder, AcceptsATiedMatrixStoredTwiceOrAsHeadOnly) {
  Folder twice;
  twice.shapes[kHead] = {16, 8};
  twice.dir.Write("tokenizer.json", "{}");
  twice.Write();
  auto folder = twice.Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_THAT(folder->warnings, IsEmpty());

  twice.fill[kHead] = 7;  // neither may be lost
  twice.Write();
  folder = twice.Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_THAT(folder->warnings, ElementsAre(HasSubstr("both are used")));
  EXPECT_FALSE(folder->config.tie_word_embeddings);
  EXPECT_EQ(*static_cast<const float*>(folder->Find(kHead)->data), 7);

  Folder head_only;
  head_only.shapes.erase(kEmbedding);
  head_only.shapes[kHead] = {16, 8};
  head_only.Write();
  folder = head_only.Open();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_NE(folder->Find(kEmbedding), nullptr);
}

TEST(ModelFolder, ListsEveryTensorThatDoesNotFit) {
  Folder folder(false);
  folder.shapes["model.layers.1.mlp.up_proj.weight"] = {13, 8};
  folder.shapes["model.norm.weight"] = {1, 8};
  folder.shapes.erase("model.layers.0.self_attn.k_proj.weight");
  folder.shapes.erase(kHead);
  folder.Write();
  const std::string problem = folder.Problem();
  for (const char* says :
       {"model.layers.1.mlp.up_proj.weight has shape [13, 8], the configuration asks for [12, 8]",
        "model.norm.weight has shape [1, 8]", "model.layers.0.self_attn.k_proj.weight is missing",
        "lm_head.weight is missing"}) {
    EXPECT_THAT(problem, HasSubstr(says));
  }
}

TEST(ModelFolder, RefusesATensorThatTheModelHasNoPlaceFor) {
  Folder folder;
  folder.shapes["model.layers.0.self_attn.rotary_emb.inv_freq"] = {2};
  folder.shapes["model.freqs_cos"] = {16, 4};
  folder.Write();
  EXPECT_TRUE(folder.Open().ok()) << folder.Open().status();
  folder.shapes["model.layers.0.self_attn.q_proj.bias"] = {8};
  folder.Write();
  EXPECT_THAT(folder.Problem(), HasSubstr("1 tensor has no place in the model: "
                                          "model.layers.0.self_attn.q_proj.bias"));
  for (int i = 0; i < 25; ++i) folder.shapes["extra." + std::to_string(10 + i)] = {1};
  folder.Write();
  EXPECT_THAT(folder.Problem(),
              HasSubstr("26 tensors have no place in the model: extra.10, extra.11"));
  EXPECT_THAT(folder.Problem(), HasSubstr("and 6 more"));
}

TEST(ModelFolder, NormsOfQAndKAreUsedWhateverTheConfigurationSays) {
  for (const char* const says : {R"({})", R"({"qk_norm": false})", R"({"model_type": "llama"})"}) {
    Folder folder;
    folder.config.qk_norm = true;
    folder.shapes.clear();
    for (const ExpectedTensor& tensor : ExpectedTensors(folder.config)) {
      folder.shapes[tensor.name] = tensor.shape;
    }
    folder.Write();
    Json json = ModelConfigToJson(folder.config);
    json["model_type"] = "minimind";
    json.update(Json::parse(says));
    folder.dir.Write("config.json", json.dump());
    folder.dir.Write("tokenizer.json", "{}");
    const auto opened = folder.Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_TRUE(opened->config.qk_norm) << says;
    EXPECT_EQ(opened->warnings.size(), std::string(says) == "{}" ? 0u : 1u);
    // And where one of them is missing, that is said.
    folder.shapes.erase("model.layers.1.self_attn.k_norm.weight");
    folder.Write();
    folder.dir.Write("config.json", json.dump());
    EXPECT_THAT(folder.Problem(), HasSubstr("model.layers.1.self_attn.k_norm.weight is missing"));
  }
}

TEST(ModelFolder, SaysWhatAGitLfsPointerIs) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
  for (const char* const name : {"model.safetensors", "config.json"}) {
    Folder folder;
    folder.Write();
    folder.dir.Write(name, pointer);
    EXPECT_THAT(folder.Problem(), HasSubstr("git-lfs pointer"));
    EXPECT_THAT(folder.Problem(), HasSubstr(name));
  }
}

TEST(ModelFolder, RefusesADTypeItCannotLoad) {
  Folder folder;
  folder.Write();
  const std::string path = folder.dir.File("model.safetensors");
  std::string bytes = ReadBytes(path);
  bytes.replace(bytes.find("F32"), 3, "I32");
  WriteBytes(path, bytes);
  EXPECT_THAT(folder.Problem(), HasSubstr("is I32"));
}

TEST(ModelFolder, ReadsShards) {
  Folder folder;
  folder.Write("model-00001-of-00002.safetensors");
  const auto all = folder.shapes;
  folder.shapes = {{"model.norm.weight", {8}}};
  folder.Write("model-00002-of-00002.safetensors");
  folder.shapes = all;
  folder.shapes.erase("model.norm.weight");
  folder.Write("model-00001-of-00002.safetensors");
  Json index;
  for (const auto& [name, shape] : all) {
    index["weight_map"][name] = name == "model.norm.weight" ? "model-00002-of-00002.safetensors"
                                                            : "model-00001-of-00002.safetensors";
  }
  folder.dir.Write("model.safetensors.index.json", index.dump());
  const auto opened = folder.Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->stored->tensors().size(), all.size());

  index["weight_map"]["model.norm.weight"] = "../secret";
  folder.dir.Write("model.safetensors.index.json", index.dump());
  EXPECT_THAT(folder.Problem(), HasSubstr("weight_map"));
  index["weight_map"]["model.norm.weight"] = "absent.safetensors";
  folder.dir.Write("model.safetensors.index.json", index.dump());
  EXPECT_THAT(folder.Problem(absl::StatusCode::kNotFound), HasSubstr("absent.safetensors"));
}

TEST(ModelFolder, SaysWhichPartIsMissingOrDamaged) {
  Folder folder;
  EXPECT_EQ(OpenModelFolder("/no/such/folder").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(folder.Problem(absl::StatusCode::kNotFound), HasSubstr("config.json"));
  folder.Write();
  std::filesystem::remove(folder.dir.File("model.safetensors"));
  EXPECT_THAT(folder.Problem(absl::StatusCode::kNotFound), HasSubstr("model.safetensors"));
  folder.Write();
  folder.dir.Write("config.json", "{\"hidden_size\": ");
  EXPECT_THAT(folder.Problem(), HasSubstr("config.json"));
  folder.Write();
  const std::string weights = ReadBytes(folder.dir.File("model.safetensors"));
  folder.dir.Write("model.safetensors", weights.substr(0, weights.size() - 4));
  EXPECT_THAT(folder.Problem(absl::StatusCode::kDataLoss), HasSubstr("was the file cut off?"));
}

TEST(ModelFolder, ReadsGenerationDefaultsAndNamesWrongOnes) {
  Folder folder;
  folder.Write();
  folder.dir.Write("generation_config.json",
                   R"({"temperature": 1, "top_k": 20, "eos_token_id": [2, 5], "other": null})");
  const auto opened = folder.Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->generation.temperature, 1.0);
  EXPECT_EQ(opened->generation.top_k, 20);
  EXPECT_EQ(opened->generation.top_p, std::nullopt);
  EXPECT_THAT(opened->generation.eos_token_ids, ElementsAre(2, 5));
  folder.dir.Write("generation_config.json",
                   R"({"temperature": "hot", "top_k": 1.5, "eos_token_id": "end"})");
  const std::string problem = folder.Problem();
  for (const char* says : {"`temperature`", "`top_k`", "`eos_token_id`"}) {
    EXPECT_THAT(problem, HasSubstr(says));
  }
}

}  // namespace
}  // namespace mindforge
