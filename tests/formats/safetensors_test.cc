#include "worker/formats/safetensors.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

template <typename T>
TensorView View(const std::string& name, DType dtype, std::vector<int64_t> shape,
                const std::vector<T>& data) {
  return {name, dtype, std::move(shape), data.data(),
          static_cast<int64_t>(data.size() * sizeof(T))};
}

std::string FileOf(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

absl::Status OpenStatus(const TempDir& dir, const std::string& content) {
  return SafetensorsFile::Open(dir.Write("x.safetensors", content)).status();
}

TEST(Safetensors, ReadsBackWhatItWrote) {
  const TempDir dir;
  const std::vector<float> weights = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> half = {7, 8};
  const std::vector<int64_t> scalar = {-9};
  const std::vector<uint8_t> odd = {1, 2, 3};
  const std::vector<float> none;
  const std::vector<TensorView> tensors = {
      View("odd", DType::kU8, {3}, odd), View("b", DType::kBF16, {2}, half),
      View("a.weight", DType::kF32, {2, 3}, weights), View("s", DType::kI64, {}, scalar),
      View("empty", DType::kF32, {0, 4}, none)};
  const auto digest = WriteSafetensors(dir.File("m"), tensors, {{"format", "pt"}});
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(digest->bytes, static_cast<int64_t>(ReadBytes(dir.File("m")).size()));

  const auto file = SafetensorsFile::Open(dir.File("m"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 5u);
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  for (const TensorView& written : tensors) {
    const TensorView* const read = (*file)->Find(written.name);
    ASSERT_NE(read, nullptr) << written.name;
    EXPECT_EQ(read->dtype, written.dtype);
    EXPECT_EQ(read->shape, written.shape);
    ASSERT_EQ(read->bytes, written.bytes);
    if (read->bytes > 0) {
      EXPECT_EQ(std::memcmp(read->data, written.data, read->bytes), 0);
    }
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read->data) % DTypeBytes(read->dtype), 0u);
  }
  EXPECT_EQ((*file)->Find("nobody"), nullptr);
}

TEST(Safetensors, OpensTheGoldenFiles) {
  for (const char* name : {"dense", "train_dense", "moe_seq_aux", "greedy"}) {
    const auto file =
        SafetensorsFile::Open(TestData("golden/" + std::string(name) + ".safetensors"));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_GT((*file)->tensors().size(), 2u);
  }
}

TEST(Safetensors, RefusesToWriteWhatCannotBeRead) {
  const TempDir dir;
  const std::vector<float> two = {1, 2};
  const auto status = [&](const std::vector<TensorView>& tensors) {
    return WriteSafetensors(dir.File("m"), tensors, {}).status().code();
  };
  const auto good = View("a", DType::kF32, {2}, two);
  EXPECT_EQ(status({good, good}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status({View("a", DType::kF32, {3}, two)}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status({View("a", DType::kF32, {-2}, two)}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status({View("", DType::kF32, {2}, two)}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors("/no/such/folder/m", {good}, {}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(WriteSafetensors("/dev/full", {good}, {}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(Safetensors, NamesWhatIsWrongWithAHeader) {
  const TempDir dir;
  const std::string eight(8, 'x');
  struct Case {
    std::string header;
    std::string says;
  };
  const Case cases[] = {
      {"", "header"},
      {"[]", "no object"},
      {"{\"a\":", "line 1"},
      {"\xFF\xFE", "line 1"},
      {R"({"a":1})", "no object"},
      {R"({"a":{}})", "dtype"},
      {R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", "F33"},
      {R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", "shape"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "shape"},
      {R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", "shape"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", "shape"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "[3]"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", "fit"},
      {R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", "fit"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "not inside"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", "not inside"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})", "inside"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "end at byte 4 of 8"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "begins at byte 4"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "ends at 8"},
      {R"({})", "end at byte 0 of 8"},
      {R"({"__metadata__":{"a":1}})", "__metadata__"},
      {R"({"__metadata__":7})", "__metadata__"},
  };
  for (const Case& test : cases) {
    const absl::Status status = OpenStatus(dir, FileOf(test.header, eight));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << test.header << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.says)) << test.header;
    EXPECT_THAT(std::string(status.message()), HasSubstr("x.safetensors"));
  }
  EXPECT_TRUE(
      OpenStatus(dir, FileOf(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight))
          .ok());
}

TEST(Safetensors, RefusesFilesThatAreTooShort) {
  const TempDir dir;
  for (const std::string& content :
       {std::string(), std::string("1234567"), std::string(8, '\xFF'), std::string(8, '\x7F'),
        std::string("\x01\0\0\0\0\0\0\0", 8), std::string("\x64\0\0\0\0\0\0\0{}", 10)}) {
    EXPECT_EQ(OpenStatus(dir, content).code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(SafetensorsFile::Open(dir.File("absent")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(dir.path()).status().code(), absl::StatusCode::kDataLoss);
}

// Whatever happens to a file, it opens with every view inside it or is refused; nothing crashes.
TEST(Safetensors, SurvivesRandomDamage) {
  const TempDir dir;
  const std::vector<float> data = {1, 2, 3, 4, 5, 6, 7, 8};
  ASSERT_TRUE(
      WriteSafetensors(dir.File("m"),
                       {View("a", DType::kF32, {2, 4}, data), View("b", DType::kF32, {8}, data)},
                       {{"format", "pt"}})
          .ok());
  const std::string sound = ReadBytes(dir.File("m"));
  std::mt19937 rng(1);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = sound;
    const int kind = i % 4;
    if (kind == 0) damaged.resize(rng() % damaged.size());
    if (kind == 1) damaged[rng() % damaged.size()] = static_cast<char>(rng());
    if (kind == 2) damaged.insert(rng() % damaged.size(), 1, static_cast<char>(rng()));
    if (kind == 3) damaged.erase(rng() % damaged.size(), 1 + rng() % 9);
    const auto file = SafetensorsFile::Open(dir.Write("x", damaged));
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << file.status();
      ++refused;
      continue;
    }
    int sum = 0;
    for (const TensorView& tensor : (*file)->tensors()) {
      ASSERT_EQ(tensor.elements() * DTypeBytes(tensor.dtype), tensor.bytes);
      const auto* const bytes = static_cast<const unsigned char*>(tensor.data);
      for (int64_t b = 0; b < tensor.bytes; ++b) sum += bytes[b];
    }
    EXPECT_GE(sum, 0);
  }
  EXPECT_GT(refused, 1000);
}

TEST(ElementCount, KnowsOverflowAndEmptiness) {
  EXPECT_EQ(ElementCount({}), 1);
  EXPECT_EQ(ElementCount({2, 3}), 6);
  EXPECT_EQ(ElementCount({0, INT64_MAX, 4}), 0);
  EXPECT_EQ(ElementCount({INT64_MAX, 2}), -1);
  EXPECT_EQ(ElementCount({2, -1}), -1);
  EXPECT_EQ(ShapeToString({2, 3}), "[2, 3]");
}

}  // namespace
}  // namespace mindforge
