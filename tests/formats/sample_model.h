// A small model folder for tests of exports and imports.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/export.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/model_folder_writer.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {

// A small model on disk, each element of its tensors another number.
class SampleModel {
 public:
  explicit SampleModel(bool tokenizer = true) : with_tokenizer_(tokenizer) {
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
    EXPECT_TRUE(WriteModelFolder(dir.File("model"), contents, /*overwrite=*/true).ok());
    return dir.File("model");
  }

  absl::Status Export(ExportFormat format, bool overwrite = false) {
    return ExportModel(Write(), {.format = format, .out = dir.File("out"), .overwrite = overwrite})
        .status();
  }

  TempDir dir;
  ModelConfig config;

 private:
  const bool with_tokenizer_;
};

inline void ExpectSameTensors(const std::string& a, const std::string& b) {
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

}  // namespace mindforge
