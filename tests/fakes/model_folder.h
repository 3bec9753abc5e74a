// Models for tests, in memory and as folders: the reference's golden weights, and random ones of
// any shape.
#pragma once

#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/golden_config.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// Writes config.json and model.safetensors, without a tokenizer.
inline void WriteModelFolder(const std::string& path, const nlohmann::json& config,
                             const std::vector<TensorView>& tensors) {
  std::ofstream(path + "/config.json") << config.dump(1);
  MF_CHECK_OK(WriteSafetensors(path + "/model.safetensors", tensors, {{"format", "pt"}}));
}

using AdjustTensor = std::function<void(const std::string& name, std::vector<float>& values)>;

// Normally distributed weights; the same seed gives the same ones. `adjust` may change a tensor.
inline std::vector<std::vector<float>> RandomWeights(const ModelConfig& config, uint32_t seed,
                                                     const AdjustTensor& adjust) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, 0.15f);
  std::vector<std::vector<float>> weights;
  for (const ExpectedTensor& expected : ExpectedTensors(config)) {
    const bool norm = expected.shape.size() == 1;
    std::vector<float>& values = weights.emplace_back(ElementCount(expected.shape));
    for (float& value : values) value = (norm ? 1.0f : 0.0f) + normal(engine);
    if (adjust != nullptr) adjust(expected.name, values);
  }
  return weights;
}

inline void WriteRandomModelFolder(const std::string& path, const ModelConfig& config,
                                   uint32_t seed, const AdjustTensor& adjust = {}) {
  const std::vector<std::vector<float>> weights = RandomWeights(config, seed, adjust);
  const std::vector<ExpectedTensor> expected = ExpectedTensors(config);
  std::vector<TensorView> tensors;
  for (size_t i = 0; i < expected.size(); ++i) {
    tensors.push_back({.name = expected[i].name,
                       .dtype = DType::kF32,
                       .shape = expected[i].shape,
                       .data = weights[i].data(),
                       .bytes = static_cast<int64_t>(weights[i].size() * sizeof(float))});
  }
  WriteModelFolder(path, ModelConfigToJson(config), tensors);
}

// A model that no file holds, for tests of arithmetic.
inline ModelFolder InMemory(const ModelConfig& config) {
  ModelFolder folder;
  folder.path = "in memory";
  folder.config = config;
  return folder;
}

inline void TieHead(ModelFolder* folder) {
  if (!folder->config.tie_word_embeddings) return;
  folder->tensors["lm_head.weight"] = folder->tensors.at("model.embed_tokens.weight");
}

// The weights of WriteRandomModelFolder.
inline ModelFolder RandomModel(const ModelConfig& config, uint32_t seed,
                               const AdjustTensor& adjust = {}) {
  std::vector<std::vector<float>> weights = RandomWeights(config, seed, adjust);
  const std::vector<ExpectedTensor> expected = ExpectedTensors(config);
  ModelFolder folder = InMemory(config);
  for (size_t i = 0; i < expected.size(); ++i) {
    folder.Replace(expected[i].name, expected[i].shape, std::move(weights[i]));
  }
  TieHead(&folder);
  return folder;
}

// One entry of tests/data/golden as a model and its expected tensors.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name) {
    const std::string golden = std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/golden/";
    auto file = SafetensorsFile::Open(golden + name + ".safetensors");
    MF_CHECK_OK(file);
    file_ = std::move(*file);
    nlohmann::json index;
    std::ifstream(golden + "index.json") >> index;
    config_ = index.at(name).at("config");
  }

  ModelFolder model() const {
    constexpr char kNorm[] = "weights.model.layers.0.self_attn.q_norm.weight";
    ModelFolder folder = InMemory(GoldenConfig(config_, file_->Find(kNorm) != nullptr));
    for (const TensorView& view : file_->tensors()) {
      if (view.name.rfind(kPrefix, 0) != 0) continue;
      const auto* values = static_cast<const float*>(view.data);
      folder.Replace(view.name.substr(sizeof(kPrefix) - 1), view.shape,
                     {values, values + view.elements()});
    }
    TieHead(&folder);
    return folder;
  }

  template <typename T>
  std::vector<T> Values(const std::string& name) const {
    const TensorView* view = file_->Find(name);
    MF_CHECK(view != nullptr) << name;
    MF_CHECK_EQ(DTypeBytes(view->dtype), static_cast<int64_t>(sizeof(T)));
    const T* data = static_cast<const T*>(view->data);
    return {data, data + view->elements()};
  }
  // int64 ids as the engine takes them.
  std::vector<int32_t> Ids(const std::string& name) const {
    const std::vector<int64_t> wide = Values<int64_t>(name);
    return {wide.begin(), wide.end()};
  }

 private:
  static constexpr char kPrefix[] = "weights.";

  nlohmann::json config_;
  std::unique_ptr<SafetensorsFile> file_;
};

}  // namespace mindforge
