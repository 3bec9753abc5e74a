// Model folders for tests: the reference's golden weights, and random ones of any shape.
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
#include "tests/fakes/temp_dir.h"
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

// Normally distributed weights; the same seed gives the same folder. `adjust` may change a tensor.
inline void WriteRandomModelFolder(
    const std::string& path, const ModelConfig& config, uint32_t seed,
    const std::function<void(const std::string& name, std::vector<float>& values)>& adjust = {}) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, 0.15f);
  std::vector<std::vector<float>> storage;
  std::vector<TensorView> tensors;
  for (const ExpectedTensor& expected : ExpectedTensors(config)) {
    const bool norm = expected.shape.size() == 1;
    std::vector<float>& values = storage.emplace_back(ElementCount(expected.shape));
    for (float& value : values) value = (norm ? 1.0f : 0.0f) + normal(engine);
    if (adjust != nullptr) adjust(expected.name, values);
    tensors.push_back({.name = expected.name,
                       .dtype = DType::kF32,
                       .shape = expected.shape,
                       .data = values.data(),
                       .bytes = static_cast<int64_t>(values.size() * sizeof(float))});
  }
  WriteModelFolder(path, ModelConfigToJson(config), tensors);
}

// One entry of tests/data/golden as a model folder and its expected tensors.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name) {
    const std::string golden = std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/golden/";
    auto file = SafetensorsFile::Open(golden + name + ".safetensors");
    MF_CHECK_OK(file);
    file_ = std::move(*file);
    nlohmann::json index;
    std::ifstream(golden + "index.json") >> index;
    std::vector<TensorView> weights;
    constexpr char kPrefix[] = "weights.";
    for (TensorView view : file_->tensors()) {
      if (view.name.rfind(kPrefix, 0) != 0) continue;
      view.name = view.name.substr(sizeof(kPrefix) - 1);
      weights.push_back(view);
    }
    WriteModelFolder(folder_.path(), index.at(name).at("config"), weights);
  }

  const std::string& path() const { return folder_.path(); }

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
  TempDir folder_;
  std::unique_ptr<SafetensorsFile> file_;
};

}  // namespace mindforge
