#include "worker/formats/pth.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/named_tensors.h"
#include "worker/formats/resume_pth.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<float> Floats(const TensorView& view) {
  const auto values = ToFloats(view);
  EXPECT_TRUE(values.ok()) << values.status();
  return values.value_or(std::vector<float>{});
}

TEST(PthFile, ReadsWhatTorchWrote) {
  const auto file = NamedTensors::Open(TestData("pth/state_dict.pth"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 8u);
  const TensorView& row = *(*file)->Find("row");
  EXPECT_EQ(row.dtype, DType::kF16);
  EXPECT_THAT(row.shape, ElementsAre(2, 3));
  EXPECT_THAT(Floats(row), ElementsAre(0, 1, 2, 3, 4, 5));
  const TensorView& transposed = *(*file)->Find("transposed");
  EXPECT_THAT(transposed.shape, ElementsAre(3, 2));
  EXPECT_THAT(Floats(transposed), ElementsAre(0, 3, 1, 4, 2, 5));
  const TensorView& slice = *(*file)->Find("slice");
  EXPECT_EQ(slice.dtype, DType::kI64);
  std::vector<int64_t> values(4);
  std::memcpy(values.data(), slice.data, 32);
  EXPECT_THAT(values, ElementsAre(5, 6, 9, 10));
  EXPECT_THAT(Floats(*(*file)->Find("bf")), ElementsAre(1.5, -2));
  EXPECT_THAT(Floats(*(*file)->Find("scalar")), ElementsAre(3.25));
  EXPECT_EQ((*file)->Find("tied.a")->data, (*file)->Find("tied.b")->data);
  EXPECT_EQ((*file)->Find("empty")->bytes, 0);
}

// Tables and wrappers change nothing: both files hold the weights of the reference's cases.
TEST(PthFile, LeavesOutTablesAndLooksIntoWrappers) {
  for (const char* const name : {"pos_cis_64.pth", "wrapped_module_64.pth"}) {
    const auto file = NamedTensors::Open(TestData(std::string("cases/pth/") + name));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->Find("pos_cis"), nullptr);
    ASSERT_EQ((*file)->tensors().size(), 21u) << name;
    const TensorView* const norm = (*file)->Find("model.norm.weight");
    ASSERT_NE(norm, nullptr);
    EXPECT_THAT(norm->shape, ElementsAre(64));
    EXPECT_EQ(norm->dtype, DType::kF16);
  }
}

// A document {outer: {inner: {"model.norm.weight": [1, 2]}}}, outer and inner where they are given.
std::string Wrapped(const TempDir& dir, const std::vector<std::string>& outer) {
  const float values[] = {1, 2};
  const TensorView tensor{
      .name = "model.norm.weight", .shape = {2}, .data = values, .bytes = sizeof(values)};
  const std::string path = dir.File("wrapped.pth");
  const auto writer = PthWriter::Create(path);
  EXPECT_TRUE(writer.ok());
  (*writer)->pickle().BeginDict();
  for (const std::string& key : outer) {
    (*writer)->pickle().Text(key);
    EXPECT_TRUE((*writer)->StateDict({tensor}, DType::kF32).ok());
  }
  (*writer)->pickle().Text("epoch");
  (*writer)->pickle().Int(3);
  (*writer)->pickle().EndDict();
  EXPECT_TRUE((*writer)->Finish().ok());
  return path;
}

TEST(PthFile, NamesTheKeysOfAWrapperItDoesNotKnow) {
  const TempDir dir;
  for (const char* const key : {"module", "model", "state_dict", "model_state_dict"}) {
    const auto file = NamedTensors::Open(Wrapped(dir, {key}));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_THAT(Floats(*(*file)->Find("model.norm.weight")), ElementsAre(1, 2));
  }
  const absl::Status other = NamedTensors::Open(Wrapped(dir, {"ema"})).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(other.message()),
              HasSubstr("its keys are `ema` (a dictionary with 1 tensors), `epoch`"));
  const absl::Status both = NamedTensors::Open(Wrapped(dir, {"model", "module"})).status();
  EXPECT_THAT(std::string(both.message()),
              HasSubstr("more than one dictionary of tensors: `model` and `module`"));
}

TEST(PthFile, SaysWhatAGitLfsPointerIs) {
  const TempDir dir;
  const absl::Status status =
      NamedTensors::Open(
          dir.Write("x.pth", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"))
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("git lfs pull"));
}

TEST(PthFile, ACutFileIsCalledCut) {
  const TempDir dir;
  const std::string whole = ReadBytes(TestData("cases/pth/wrapped_module_64.pth"));
  const absl::Status status =
      NamedTensors::Open(dir.Write("cut.pth", whole.substr(0, whole.size() / 2))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cut off"));
}

TEST(PthFile, ReadsBackWhatItWrote) {
  TempDir dir;
  const std::vector<float> a = {1, 2, 3, -4.5};
  const std::vector<float> b = {0.25};
  const std::vector<TensorView> tensors = {
      {.name = "a", .shape = {2, 2}, .data = a.data(), .bytes = 16},
      {.name = "same", .shape = {2, 2}, .data = a.data(), .bytes = 16},
      {.name = "b", .shape = {1}, .data = b.data(), .bytes = 4}};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    ASSERT_TRUE(WriteStateDictPth(dir.File("x.pth"), tensors, dtype).ok());
    const auto file = NamedTensors::Open(dir.File("x.pth"));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_EQ((*file)->tensors().size(), 3u);
    EXPECT_EQ((*file)->Find("a")->dtype, dtype);
    EXPECT_THAT(Floats(*(*file)->Find("a")), ElementsAre(1, 2, 3, -4.5));
    EXPECT_EQ((*file)->Find("a")->data, (*file)->Find("same")->data);
    EXPECT_THAT(Floats(*(*file)->Find("b")), ElementsAre(0.25));
  }
}

TEST(PthFile, SaysWhichValueFloat16CannotHold) {
  TempDir dir;
  const float big = 70000;
  const auto written = WriteStateDictPth(
      dir.File("x.pth"), {{.name = "w", .shape = {1}, .data = &big, .bytes = 4}}, DType::kF16);
  EXPECT_EQ(written.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(written.status().message()), HasSubstr("\"w\" holds 70000"));
}

TEST(ResumePth, ReadsWhatTorchWrote) {
  const auto resume = ReadResumePth(TestData("pth/resume.pth"));
  ASSERT_TRUE(resume.ok()) << resume.status();
  ASSERT_EQ(resume->model.size(), 1u);
  EXPECT_EQ(resume->model[0].name, "model.embed_tokens.weight");
  ASSERT_EQ(resume->optimizer.size(), 1u);
  EXPECT_EQ(resume->optimizer[0].step, 1);
  EXPECT_NEAR(Floats(resume->optimizer[0].first)[0], 0.1, 1e-7);
  EXPECT_NEAR(Floats(resume->optimizer[0].second)[3], 0.001, 1e-9);
  EXPECT_EQ(resume->learning_rate, 5e-4);
  EXPECT_EQ(resume->beta2, 0.999);
  EXPECT_EQ(resume->epoch, 1);
  EXPECT_EQ(resume->step, 40);
  EXPECT_EQ(resume->world_size, 2);
  EXPECT_EQ(resume->tracker_id, "run-7");
  ASSERT_TRUE(resume->scaler.has_value());
  EXPECT_EQ(resume->scaler->scale, 32768);
  EXPECT_EQ(resume->scaler->growth_tracker, 17);
}

TEST(ResumePth, ReadsBackWhatItWrote) {
  TempDir dir;
  auto resume = ReadResumePth(TestData("pth/resume.pth"));
  ASSERT_TRUE(resume.ok()) << resume.status();
  resume->tracker_id.clear();
  resume->step = int64_t{1} << 40;
  resume->scaler.reset();
  ASSERT_TRUE(WriteResumePth(dir.File("r.pth"), *resume, DType::kF16).ok());
  const auto again = ReadResumePth(dir.File("r.pth"));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->optimizer.size(), 1u);
  EXPECT_EQ(again->optimizer[0].step, 1);
  EXPECT_EQ(Floats(again->optimizer[0].first), Floats(resume->optimizer[0].first));
  EXPECT_EQ(again->step, int64_t{1} << 40);
  EXPECT_EQ(again->tracker_id, "");
  EXPECT_FALSE(again->scaler.has_value());
}

TEST(ResumePth, NamesWhatIsMissing) {
  const auto resume = ReadResumePth(TestData("pth/state_dict.pth"));
  EXPECT_EQ(resume.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(resume.status().message()), HasSubstr("`model` is missing"));
}

TEST(ResumePth, ParameterNumbersFollowTheReference) {
  ModelConfig config;
  config.num_hidden_layers = 1;
  EXPECT_THAT(
      ReferenceParameterOrder(config),
      ElementsAre("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
                  "model.layers.0.self_attn.k_proj.weight",
                  "model.layers.0.self_attn.v_proj.weight",
                  "model.layers.0.self_attn.o_proj.weight", "model.layers.0.input_layernorm.weight",
                  "model.layers.0.post_attention_layernorm.weight",
                  "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.down_proj.weight",
                  "model.layers.0.mlp.up_proj.weight", "model.norm.weight"));
}

// MiniMind-3 makes its router before its experts, MiniMind2 after.
TEST(ResumePth, ParameterNumbersOfAMixtureFollowItsRelease) {
  ModelConfig config;
  config.num_hidden_layers = 1;
  config.use_moe = true;
  const auto router = [&config] {
    const std::vector<std::string> names = ReferenceParameterOrder(config);
    const auto at = [&](const char* name) {
      return std::find(names.begin(), names.end(), name) - names.begin();
    };
    return at("model.layers.0.mlp.gate.weight") -
           at("model.layers.0.mlp.experts.0.gate_proj.weight");
  };
  EXPECT_EQ(router(), 3 * config.n_routed_experts);
  config.moe_family = MoeFamily::kMinimind3;
  config.n_shared_experts = 0;
  config.seq_aux = false;
  EXPECT_EQ(router(), -1);
}

TEST(DTypeConvert, RoundsEveryHalfAndBackToItself) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const bool nan = (half & 0x7C00) == 0x7C00 && (half & 0x3FF) != 0;
    if (nan) continue;
    ASSERT_EQ(FloatToHalf(HalfToFloat(half)), half) << bits;
    ASSERT_EQ(FloatToBfloat16(Bfloat16ToFloat(half)) & 0x7F80, half & 0x7F80) << bits;
  }
}

TEST(DTypeConvert, RoundsTiesToEven) {
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), 0x3C00);      // halfway: the even one below
  EXPECT_EQ(FloatToHalf(1.0f + 3 * 0x1p-11f), 0x3C02);  // the even one above
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f + 0x1p-20f), 0x3C01);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);  // half of the smallest
  EXPECT_EQ(FloatToHalf(0x1.8p-24f), 0x0002);
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToHalf(-std::numeric_limits<float>::infinity()), 0xFC00);
  EXPECT_EQ(FloatToBfloat16(1.0f + 0x1p-8f), 0x3F80);
  EXPECT_EQ(FloatToBfloat16(1.0f + 3 * 0x1p-8f), 0x3F82);
}

// The length of a safetensors header comes first: 128 looks like a pickle, 19280 like "PK".
TEST(NamedTensors, KnowsSafetensorsWhateverItsHeadersLengthLooksLike) {
  const TempDir dir;
  for (const uint64_t length : {uint64_t{128}, uint64_t{19280}}) {
    std::string file(8, '\0');
    std::memcpy(file.data(), &length, sizeof(length));
    file += R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    file.resize(8 + length, ' ');
    file.resize(8 + length + 8, '\0');
    const auto opened = NamedTensors::Open(dir.Write("model.safetensors", file));
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_NE((*opened)->Find("a"), nullptr);
  }
}

}  // namespace
}  // namespace mindforge
