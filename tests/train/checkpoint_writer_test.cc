#include "worker/train/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "tests/fakes/file_size_limit.h"
#include "tests/fakes/recording_progress_sink.h"
#include "tests/train/training_job.h"
#include "worker/train/failure.h"
#include "worker/train/parameters_io.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

ModelConfig TinyModel() {
  ModelConfig config;
  config.hidden_size = 16;
  config.num_hidden_layers = 1;
  config.vocab_size = 20;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.max_position_embeddings = 32;
  return config;
}

std::unique_ptr<Minimind> MakeModel(const ModelConfig& config) {
  auto model = Minimind::Create(config, at::kCPU, {});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::vector<float> Values(const at::Tensor& tensor) {
  const float* data = tensor.const_data_ptr<float>();
  return {data, data + tensor.numel()};
}

class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriterTest()
      : model_(MakeModel(TinyModel())), optimizer_(model_->parameter_count(), at::kCPU, {}) {
    model_->InitializeWeights(1);
    optimizer_.first_moment().fill_(0.25);
    optimizer_.second_moment().fill_(0.5);
  }

  CheckpointState StateOf(int64_t step) {
    return {.job_id = "j", .step = step, .generation = 2, .dataset_digest = "d", .loss = 1.5};
  }

  const TestFolder folder_;
  const RealClock clock_;
  RecordingProgressSink sink_;
  std::unique_ptr<Minimind> model_;
  AdamW optimizer_;
};

TEST_F(CheckpointWriterTest, WritesTheStateAsItWasWhenStarted) {
  const std::vector<float> weights = Values(model_->flat_parameters());
  {
    CheckpointWriter writer({.dir = folder_ / "c"}, *model_, optimizer_, clock_, sink_);
    writer.Start(StateOf(7), /*final=*/true);
    writer.WaitForCopy();
    model_->flat_parameters().fill_(9);  // the next update
    optimizer_.first_moment().fill_(9);
    EXPECT_TRUE(writer.Finish().ok());
  }
  ASSERT_THAT(sink_.checkpoints(), SizeIs(1));
  const CheckpointReport report = sink_.checkpoints()[0];
  EXPECT_EQ(report.folder.step, 7);
  EXPECT_EQ(report.folder.generation, 2);
  EXPECT_TRUE(report.final);
  EXPECT_THAT(report.manifest_digest, SizeIs(16));
  EXPECT_GT(report.size_bytes, model_->parameter_count() * 12);

  const auto loaded = LoadCheckpoint(report.folder.path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->state.loss, 1.5);
  const absl::Status restored = LoadCheckpointTensors(*loaded, *model_, optimizer_);
  ASSERT_TRUE(restored.ok()) << restored;
  EXPECT_EQ(Values(model_->flat_parameters()), weights);
  EXPECT_EQ(Values(optimizer_.first_moment())[5], 0.25f);
  EXPECT_EQ(Values(optimizer_.second_moment())[5], 0.5f);
}

TEST_F(CheckpointWriterTest, NeverSkipsOneThatIsDueWhileAnotherIsWritten) {
  CheckpointWriter writer({.dir = folder_ / "c"}, *model_, optimizer_, clock_, sink_);
  for (int64_t step = 1; step <= 5; ++step) writer.Start(StateOf(step), false);
  EXPECT_TRUE(writer.Finish().ok());
  EXPECT_THAT(sink_.checkpoints(), SizeIs(5));
}

TEST_F(CheckpointWriterTest, FinishesWhatWasStartedBeforeItGoes) {
  CheckpointWriter({.dir = folder_ / "c"}, *model_, optimizer_, clock_, sink_)
      .Start(StateOf(3), false);
  EXPECT_THAT(sink_.checkpoints(), SizeIs(1));
}

TEST_F(CheckpointWriterTest, SaysWhyOneWasNotWrittenAndTriesTheNext) {
  std::ofstream(folder_ / "file") << "x";
  CheckpointWriter writer({.dir = folder_ / "file"}, *model_, optimizer_, clock_, sink_);
  writer.Start(StateOf(3), false);
  const absl::Status refused = writer.Finish();
  EXPECT_EQ(ClassifyFailure(refused), FailureClass::kWorker) << refused;
  ASSERT_THAT(sink_.logs(), SizeIs(1));
  EXPECT_THAT(sink_.logs()[0], HasSubstr("checkpoint of step 3 was not written"));
  ASSERT_EQ(sink_.failed().size(), 1u);
  EXPECT_EQ(sink_.failed()[0].first, 3);
  std::filesystem::remove(folder_ / "file");
  writer.Start(StateOf(4), false);
  EXPECT_TRUE(writer.Finish().ok());
}

TEST_F(CheckpointWriterTest, ADiskThatIsFullIsNotTheDevicesFault) {
  CheckpointWriter writer({.dir = folder_ / "c"}, *model_, optimizer_, clock_, sink_);
  {
    const FileSizeLimit limit(500);
    writer.Start(StateOf(3), /*final=*/true);
    EXPECT_EQ(ClassifyFailure(writer.Finish()), FailureClass::kWorker) << writer.Finish();
  }
  writer.Start(StateOf(4), /*final=*/true);
  EXPECT_TRUE(writer.Finish().ok());
}

TEST_F(CheckpointWriterTest, ACheckpointOfAnotherShapeIsRefusedByName) {
  CheckpointWriter writer({.dir = folder_ / "c"}, *model_, optimizer_, clock_, sink_);
  writer.Start(StateOf(1), false);
  ASSERT_TRUE(writer.Finish().ok());
  const auto loaded = LoadCheckpoint(sink_.checkpoints()[0].folder.path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ModelConfig wider = TinyModel();
  wider.intermediate_size = 128;
  const auto other = MakeModel(wider);
  AdamW optimizer(other->parameter_count(), at::kCPU, {});
  const absl::Status status = LoadCheckpointTensors(*loaded, *other, optimizer);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("model.layers.0.mlp.gate_proj.weight is [64, 16], the "
                                          "model has [128, 16]"));
}

}  // namespace
}  // namespace mindforge
