// Reads the golden tensors of tests/data/golden; for tests alone.
#pragma once

#include <ATen/Functions.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/fakes/golden_config.h"
#include "worker/model/minimind.h"

namespace mindforge::golden {

inline std::string Path(const std::string& name) {
  const char* root = std::getenv("MINDFORGE_TEST_DATA");
  if (root == nullptr) throw std::runtime_error("MINDFORGE_TEST_DATA is not set");
  return std::string(root) + "/golden/" + name;
}

inline std::string Slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// All tensors of a safetensors file.
inline std::map<std::string, at::Tensor> Tensors(const std::string& name) {
  const std::string bytes = Slurp(Path(name + ".safetensors"));
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size));
  std::map<std::string, at::Tensor> out;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") continue;
    const std::string type = value.at("dtype");
    const at::ScalarType scalar = type == "F32"   ? at::kFloat
                                  : type == "F64" ? at::kDouble
                                                  : at::kLong;
    at::Tensor tensor = at::empty(value.at("shape").get<std::vector<int64_t>>(), scalar);
    const uint64_t begin = value.at("data_offsets").at(0);
    std::memcpy(tensor.mutable_data_ptr(), bytes.data() + 8 + header_size + begin, tensor.nbytes());
    out[key] = tensor;
  }
  return out;
}

inline nlohmann::json Index() { return nlohmann::json::parse(Slurp(Path("index.json"))); }

inline ModelConfig Config(const std::string& name) {
  return GoldenConfig(Index().at(name).at("config"),
                      Tensors(name).contains("weights.model.layers.0.self_attn.q_norm.weight"));
}

// Copies the tensors `prefix` + parameter name into the model.
inline void Load(const std::map<std::string, at::Tensor>& tensors, const std::string& prefix,
                 Minimind& model) {
  for (const ParameterView& view : model.parameters()) {
    model.Parameter(view).copy_(tensors.at(prefix + view.name));
  }
  model.ParametersChanged();
}

inline double LargestDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

}  // namespace mindforge::golden
