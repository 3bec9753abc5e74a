// Loading a model folder as a deployment asks: prompt style, RoPE scaling, adapters. The weights'
// logits say what was loaded.
#include "worker/serve/served_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "common/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/model_folder.h"
#include "tests/fakes/temp_dir.h"
#include "tests/infer/runner_harness.h"
#include "worker/formats/lora.h"
#include "worker/serve/model_host.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kQuery[] = "model.layers.1.self_attn.q_proj";
constexpr int64_t kRank = 3;

ModelConfig Config() {
  return {.hidden_size = 32,
          .num_hidden_layers = 2,
          .vocab_size = 6400,
          .num_attention_heads = 2,
          .num_key_value_heads = 1,
          .intermediate_size = 48,
          .max_position_embeddings = 128};
}

// A model folder with MiniMind's tokenizer, which can be changed before it is loaded.
class Folder {
 public:
  explicit Folder(const ModelConfig& config = Config(), bool tuned = false) {
    WriteRandomModelFolder(path(), config, 7, [&](const std::string& name, auto& values) {
      if (tuned && name == std::string(kQuery) + ".weight") AddProduct(values);
    });
    const std::string tokenizer = std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/tokenizer/";
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
      std::filesystem::copy_file(tokenizer + file, dir_.File(file));
    }
  }

  const std::string& path() const { return dir_.path(); }
  std::string File(const std::string& name) const { return dir_.File(name); }

  // Changes config.json or tokenizer_config.json.
  void Edit(const std::string& file, const std::function<void(nlohmann::json&)>& edit) {
    nlohmann::json json;
    std::ifstream(File(file)) >> json;
    edit(json);
    std::ofstream(File(file)) << json;
  }
  void SayStyle(const std::string& style) {
    Edit("config.json", [&](nlohmann::json& json) { json[kPromptStyleField] = style; });
  }

  void SayGeneration(const nlohmann::json& json) {
    std::ofstream(File("generation_config.json")) << json;
  }

  v1::DesiredModel Desire() const {
    v1::DesiredModel desired;
    desired.set_deployment("poems");
    desired.set_path(path());
    desired.set_weights_version("v1");
    return desired;
  }

  // An adapter of one projection: A and B of simple numbers.
  static float A(int64_t r, int64_t in) { return 0.01f * static_cast<float>(r + in % 5); }
  static float B(int64_t out, int64_t r) { return 0.1f * static_cast<float>(out % 7 - r); }
  void WriteAdapter(const std::string& file, int64_t in = 32) {
    a_.clear();
    b_.clear();
    for (int64_t r = 0; r < kRank; ++r) {
      for (int64_t i = 0; i < in; ++i) a_.push_back(A(r, i));
    }
    for (int64_t o = 0; o < 32; ++o) {
      for (int64_t r = 0; r < kRank; ++r) b_.push_back(B(o, r));
    }
    const auto view = [](std::string name, std::vector<int64_t> shape, std::vector<float>& values) {
      return TensorView{std::move(name), DType::kF32, std::move(shape), values.data(),
                        static_cast<int64_t>(values.size() * sizeof(float))};
    };
    MF_CHECK_OK(WriteLora(
        File(file),
        {view(LoraAName(kQuery), {kRank, in}, a_), view(LoraBName(kQuery), {32, kRank}, b_)},
        DType::kF32));
  }

 private:
  // W += B·A, as the adapter means it.
  static void AddProduct(std::vector<float>& weight) {
    for (int64_t o = 0; o < 32; ++o) {
      for (int64_t i = 0; i < 32; ++i) {
        for (int64_t r = 0; r < kRank; ++r) weight[o * 32 + i] += B(o, r) * A(r, i);
      }
    }
  }

  TempDir dir_;
  std::vector<float> a_, b_;
};

absl::StatusOr<LoadedModel> Load(const v1::DesiredModel& desired) {
  return LoadModelFolder(desired,
                         {.slots = 1, .max_context = 96, .max_batch_tokens = 96, .threads = 1});
}

std::vector<float> Logits(const v1::DesiredModel& desired) {
  auto loaded = Load(desired);
  MF_CHECK_OK(loaded);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 80; ++i) ids.push_back(i * 37 % 6400);
  return RunInChunks(*loaded->runner, ids, 33);
}

v1::PromptStyle Style(const Folder& folder, v1::PromptStyle asked = v1::PROMPT_STYLE_UNSPECIFIED) {
  v1::DesiredModel desired = folder.Desire();
  desired.set_prompt_style(asked);
  auto loaded = Load(desired);
  MF_CHECK_OK(loaded);
  return loaded->model->prompt_style;
}

TEST(ServedModel, AContextOfOneTokenHasNoPlaceForACanary) {
  ModelConfig config = Config();
  config.max_position_embeddings = 1;
  const Folder folder(config);
  const auto loaded = Load(folder.Desire());
  EXPECT_TRUE(loaded.ok()) << loaded.status();
}

TEST(ServedModel, TakesThePromptStyleOfTheDeploymentElseOfTheFolderElseOfItsTemplate) {
  Folder folder;
  folder.Edit("tokenizer_config.json",
              [](nlohmann::json& json) { json["chat_template"] = MiniMind2ChatTemplate(); });
  EXPECT_EQ(Style(folder), v1::PROMPT_STYLE_CHAT);
  EXPECT_EQ(Style(folder, v1::PROMPT_STYLE_COMPLETION), v1::PROMPT_STYLE_COMPLETION);
  folder.SayStyle("completion");
  EXPECT_EQ(Style(folder), v1::PROMPT_STYLE_COMPLETION);
  EXPECT_EQ(Style(folder, v1::PROMPT_STYLE_CHAT), v1::PROMPT_STYLE_CHAT);
  folder.Edit("tokenizer_config.json", [](nlohmann::json& json) { json.erase("chat_template"); });
  folder.Edit("config.json", [](nlohmann::json& json) { json.erase(kPromptStyleField); });
  EXPECT_EQ(Style(folder), v1::PROMPT_STYLE_COMPLETION);
  folder.SayStyle("chat");
  EXPECT_EQ(Style(folder), v1::PROMPT_STYLE_CHAT);
}

TEST(ServedModel, ReplacesTheRopeScalingOfTheFolder) {
  ModelConfig config = Config();
  const std::vector<float> plain = Logits(Folder(config).Desire());
  for (const std::string type : {"minimind", "yarn"}) {
    RopeScaling scaling{.original_max_position_embeddings = 16};
    v1::RopeScalingSpec asked;
    asked.set_type(type);
    asked.set_original_max_position_embeddings(16);
    if (type == "yarn") {
      scaling.type = RopeScaling::Type::kYarn;
      scaling.factor = 8;
      scaling.beta_fast = 32;
      asked.set_factor(8);
    }
    config.rope_scaling = scaling;
    const Folder written(config);
    const std::vector<float> expected = Logits(written.Desire());
    EXPECT_NE(expected, plain);

    const Folder folder;
    v1::DesiredModel desired = folder.Desire();
    *desired.mutable_rope_scaling() = asked;
    EXPECT_EQ(Logits(desired), expected) << type;
    EXPECT_EQ((*Load(desired)).model->rope_scaling.factor(), scaling.factor);

    desired = written.Desire();
    desired.mutable_rope_scaling()->set_type("none");
    EXPECT_EQ(Logits(desired), plain) << type;
  }
}

TEST(ServedModel, RefusesARopeScalingThatCannotBe) {
  const Folder folder;
  v1::DesiredModel desired = folder.Desire();
  desired.mutable_rope_scaling()->set_type("linear");
  const auto fields = [&] {
    std::vector<std::string> names;
    for (const FieldViolation& one : GetViolations(Load(desired).status())) {
      names.push_back(one.field);
    }
    return names;
  };
  EXPECT_THAT(fields(), ElementsAre("rope_scaling.type"));
  desired.mutable_rope_scaling()->set_type("yarn");
  desired.mutable_rope_scaling()->set_factor(0.5);
  EXPECT_THAT(fields(), ElementsAre("rope_scaling.factor"));
}

TEST(ServedModel, MergesAnAdapterIntoTheWeights) {
  const std::vector<float> expected = Logits(Folder(Config(), /*tuned=*/true).Desire());
  Folder folder;
  EXPECT_GT(LargestDifference(Logits(folder.Desire()), expected.data()), 0.1);
  for (const std::string file : {"polite.pth", "polite.safetensors"}) {
    folder.WriteAdapter(file);
    v1::DesiredModel desired = folder.Desire();
    desired.set_lora_path(folder.File(file));
    EXPECT_LT(LargestDifference(Logits(desired), expected.data()), 1e-3) << file;
    EXPECT_EQ((*Load(desired)).model->lora_path, folder.File(file));
  }
}

TEST(ServedModel, SaysWhatIsWrongWithAnAdapter) {
  Folder folder;
  v1::DesiredModel desired = folder.Desire();
  desired.set_lora_path(folder.File("none.pth"));
  absl::Status status = Load(desired).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_EQ(GetReason(status), "LORA_FILE_MISSING");
  folder.WriteAdapter("narrow.pth", 16);
  desired.set_lora_path(folder.File("narrow.pth"));
  status = Load(desired).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("q_proj"));
}

// A worker that was ready with these would refuse every request as the caller's fault.
TEST(ServedModel, RefusesGenerationDefaultsThatNoRequestCouldHave) {
  Folder folder;
  folder.SayGeneration({{"temperature", 0.5}, {"top_p", 0.9}, {"eos_token_id", {2, 6399}}});
  const auto loaded = Load(folder.Desire());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->model->defaults.temperature, 0.5);
  EXPECT_THAT(loaded->model->eos_ids, ElementsAre(2, 6399));
  for (const auto& [field, value] :
       std::map<std::string, nlohmann::json>{{"temperature", -1},
                                             {"top_p", 0},
                                             {"min_p", 1},
                                             {"top_k", -1},
                                             {"repetition_penalty", 0},
                                             {"max_new_tokens", -5},
                                             {"eos_token_id", 6400},
                                             {"eos_token_id[1]", {2, int64_t{1} << 32}}}) {
    folder.SayGeneration({{field.substr(0, field.find('[')), value}});
    const absl::Status status = Load(folder.Desire()).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << field << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("generation_config.json"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  }
}

// Random weights with one value of one tensor changed, or all of them.
class Poisoned {
 public:
  Poisoned(const std::string& tensor, float value, bool all = false) {
    WriteRandomModelFolder(path(), Config(), 7, [&](const std::string& name, auto& values) {
      if (name != tensor) return;
      values.at(kPlace) = value;
      if (all) std::fill(values.begin(), values.end(), value);
    });
    const std::string tokenizer = std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/tokenizer/";
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
      std::filesystem::copy_file(tokenizer + file, dir_.File(file));
    }
  }
  static constexpr size_t kPlace = 13;
  const std::string& path() const { return dir_.path(); }
  v1::DesiredModel Desire() const {
    v1::DesiredModel desired;
    desired.set_deployment("poems");
    desired.set_path(path());
    desired.set_weights_version("poisoned");
    return desired;
  }

 private:
  TempDir dir_;
};

TEST(ServedModel, RefusesWeightsThatAreNotFinite) {
  const float nan = std::nanf("");
  for (const auto& [tensor, value] :
       std::map<std::string, float>{{"model.layers.1.mlp.down_proj.weight", nan},
                                    {"model.norm.weight", INFINITY},
                                    {"model.layers.0.input_layernorm.weight", -INFINITY}}) {
    const Poisoned folder(tensor, value);
    const absl::Status status = Load(folder.Desire()).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_EQ(GetReason(status), "WEIGHTS_NOT_FINITE");
    EXPECT_THAT(std::string(status.message()),
                testing::AllOf(HasSubstr(tensor), HasSubstr("index 13"), HasSubstr("1 of ")));
  }
}

TEST(ServedModel, RefusesFiniteWeightsWhoseLogitsAreNot) {
  const Poisoned folder("model.norm.weight", 3e38f, /*all=*/true);
  const absl::Status status = Load(folder.Desire()).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_EQ(GetReason(status), "LOGITS_NOT_FINITE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("canary"));
}

TEST(ServedModel, PoisonedWeightsLeaveTheGoodOnesServing) {
  const Folder good;
  const Poisoned bad("model.layers.0.self_attn.q_proj.weight", std::nanf(""));
  const RealClock clock;
  ModelHost host({.clock = &clock,
                  .loader = [](const v1::DesiredModel& desired) { return Load(desired); },
                  .engine = {.clock = &clock}});
  host.SetDesired(bad.Desire());
  EXPECT_TRUE(absl::IsDataLoss(host.WaitUntilSettled())) << "a first load is checked too";
  EXPECT_EQ(host.State().model, nullptr);
  host.SetDesired(good.Desire());
  ASSERT_TRUE(host.WaitUntilSettled().ok());
  host.SetDesired(bad.Desire());
  EXPECT_TRUE(absl::IsDataLoss(host.WaitUntilSettled()));
  const HostState state = host.State();
  ASSERT_NE(state.model, nullptr);
  EXPECT_EQ(state.model->weights_version, "v1");
  EXPECT_EQ(state.load_error_version, "poisoned");
  EXPECT_THAT(state.load_error, HasSubstr("q_proj.weight are NaN or infinite"));
}

TEST(ServedModel, TellsWeightsFromNames) {
  ServedModel model;
  model.path = "/m";
  model.weights_version = "v1";
  model.own_prompt_style = v1::PROMPT_STYLE_CHAT;
  v1::DesiredModel desired;
  desired.set_path("/m");
  desired.set_weights_version("v1");
  desired.set_deployment("other");
  EXPECT_TRUE(HasWeights(model, desired));
  Rename(desired, &model);
  EXPECT_EQ(model.deployment, "other");
  EXPECT_EQ(model.prompt_style, v1::PROMPT_STYLE_CHAT);
  v1::DesiredModel adapted = desired;
  adapted.set_lora_path("/lora.pth");
  EXPECT_FALSE(HasWeights(model, adapted));
  adapted = desired;
  adapted.mutable_rope_scaling()->set_type("yarn");
  EXPECT_FALSE(HasWeights(model, adapted));
}

}  // namespace
}  // namespace mindforge
