#include "worker/trainer_orders.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>

#include "common/error_details.h"
#include "worker/dist/process_group.h"
#include "worker/train/failure.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

v1::StartTraining Order() {
  v1::StartTraining order;
  order.set_job_id("j");
  order.set_generation(3);
  order.set_world_size(2);
  order.set_rank(1);
  order.mutable_device()->set_kind(v1::DEVICE_KIND_CPU);
  order.mutable_device()->set_threads(4);
  return order;
}

TEST(TrainOptionsFromOrder, TakesWhatIsSetAndDefaultsElsewhere) {
  v1::StartTraining order = Order();
  order.mutable_spec()->mutable_model()->set_hidden_size(64);
  order.mutable_spec()->mutable_data()->set_path("/data/x.jsonl");
  order.mutable_spec()->mutable_training()->set_dtype("float32");
  order.mutable_spec()->mutable_training()->set_seed(7);
  const auto options = TrainOptionsFromOrder(order);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->model.hidden_size, 64);
  EXPECT_EQ(options->model.num_hidden_layers, 8);
  EXPECT_EQ(options->model.vocab_size, 0);
  EXPECT_EQ(options->data.cache_dir, "/data/.mindforge-cache");
  EXPECT_EQ(options->recipe.seed, 7u);
  EXPECT_EQ(options->recipe.dtype, TrainDtype::kFloat32);
  EXPECT_EQ(options->recipe.nan_policy, NanPolicy::kStop);
  EXPECT_EQ(options->recipe.lora_rank, 0);
  EXPECT_EQ(options->device.threads, 4);
  EXPECT_EQ(options->device.cuda_index, -1);
  EXPECT_EQ(options->store_fd, -1);
}

TEST(TrainOptionsFromOrder, ReadsPoliciesAndAdapters) {
  v1::StartTraining order = Order();
  EXPECT_EQ(TrainOptionsFromOrder(order)->recipe.dtype, TrainDtype::kBfloat16);
  v1::JobSpec& spec = *order.mutable_spec();
  spec.mutable_training()->set_dtype("float16");
  spec.mutable_training()->set_nan_policy("rollback");
  spec.mutable_data()->set_validation_fraction(0.25);
  spec.mutable_lora();
  EXPECT_EQ(TrainOptionsFromOrder(order)->recipe.dtype, TrainDtype::kFloat16);
  EXPECT_EQ(TrainOptionsFromOrder(order)->recipe.nan_policy, NanPolicy::kRollBack);
  EXPECT_EQ(TrainOptionsFromOrder(order)->data.validation_fraction, 0.25);
  EXPECT_EQ(TrainOptionsFromOrder(order)->recipe.lora_rank, 8);
  spec.mutable_lora()->set_rank(3);
  EXPECT_EQ(TrainOptionsFromOrder(order)->recipe.lora_rank, 3);
  spec.mutable_training()->set_nan_policy("hope");
  const absl::Status refused = TrainOptionsFromOrder(order).status();
  EXPECT_EQ(GetViolations(refused).at(0).field, "training.nan_policy");
  EXPECT_THAT(refused.message(), HasSubstr("stop, skip, rollback"));
}

TEST(TrainOptionsFromOrder, ReadsFormatsAndSchedules) {
  v1::StartTraining order = Order();
  EXPECT_EQ(TrainOptionsFromOrder(order)->recipe.schedule, Schedule::kCosine);
  EXPECT_FALSE(TrainOptionsFromOrder(order)->data.conversations);
  EXPECT_FALSE(TrainOptionsFromOrder(order)->data.add_bos_eos);
  v1::JobSpec& spec = *order.mutable_spec();
  spec.mutable_training()->set_schedule("cosine_from_lr");
  spec.mutable_data()->set_format("conversations");
  spec.mutable_data()->set_random_system_fraction(0.2);
  spec.mutable_data()->set_drop_empty_think_fraction(0.8);
  const auto options = TrainOptionsFromOrder(order);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->recipe.schedule, Schedule::kCosineFromLr);
  EXPECT_TRUE(options->data.conversations);
  EXPECT_EQ(options->data.random_system_fraction, 0.2);
  EXPECT_EQ(options->data.drop_empty_think_fraction, 0.8);
  spec.mutable_data()->set_format("chats");
  EXPECT_EQ(GetViolations(TrainOptionsFromOrder(order).status()).at(0).field, "data.format");
  spec.mutable_data()->set_format("text");
  spec.mutable_data()->set_add_bos_eos(true);
  EXPECT_TRUE(TrainOptionsFromOrder(order)->data.add_bos_eos);
  spec.mutable_training()->set_schedule("flat");
  EXPECT_EQ(GetViolations(TrainOptionsFromOrder(order).status()).at(0).field, "training.schedule");
}

TEST(TrainOptionsFromOrder, TellsTheMixturesApartByTheirFields) {
  v1::StartTraining order = Order();
  v1::ModelSpec& spec = *order.mutable_spec()->mutable_model();
  spec.set_use_moe(true);
  EXPECT_EQ(TrainOptionsFromOrder(order)->model.moe_family, MoeFamily::kMinimind2);
  EXPECT_EQ(TrainOptionsFromOrder(order)->model.n_shared_experts, 1);
  spec.set_num_experts(8);
  ModelConfig model = TrainOptionsFromOrder(order)->model;
  EXPECT_EQ(model.moe_family, MoeFamily::kMinimind3);
  EXPECT_EQ(model.n_routed_experts, 8);
  EXPECT_EQ(model.num_experts_per_tok, 1);
  EXPECT_EQ(model.n_shared_experts, 0);
  EXPECT_EQ(model.aux_loss_alpha, 5e-4);
  EXPECT_FALSE(model.seq_aux);
  EXPECT_EQ(model.moe_intermediate_size, 0) << "as wide as intermediate_size";
  spec.clear_num_experts();
  spec.set_moe_intermediate_size(96);
  spec.set_router_aux_loss_coef(0.05);
  spec.set_num_experts_per_tok(2);
  model = TrainOptionsFromOrder(order)->model;
  EXPECT_EQ(model.moe_family, MoeFamily::kMinimind3);
  EXPECT_EQ(model.n_routed_experts, 4);
  EXPECT_EQ(model.num_experts_per_tok, 2);
  EXPECT_EQ(model.aux_loss_alpha, 0.05);
  EXPECT_EQ(model.moe_intermediate_size, 96);
}

TEST(TrainOptionsFromOrder, KeepsTheCachesOfAFolderInIt) {
  v1::StartTraining order = Order();
  v1::DataSpec& data = *order.mutable_spec()->mutable_data();
  data.set_path(::testing::TempDir());
  data.add_more_paths("/data/more.jsonl");
  data.set_malformed_lines("skip");
  const auto options = TrainOptionsFromOrder(order);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->data.cache_dir, ::testing::TempDir() + ".mindforge-cache");
  EXPECT_THAT(options->data.more_paths, ::testing::ElementsAre("/data/more.jsonl"));
  EXPECT_TRUE(options->data.skip_malformed_lines);
  data.set_cache_dir("/caches");
  EXPECT_EQ(TrainOptionsFromOrder(order)->data.cache_dir, "/caches");
  data.set_malformed_lines("ignore");
  EXPECT_EQ(GetViolations(TrainOptionsFromOrder(order).status()).at(0).field,
            "data.malformed_lines");
}

TEST(TrainOptionsFromOrder, ReadsTheCudaDevicesIndex) {
  v1::StartTraining order = Order();
  order.mutable_device()->set_kind(v1::DEVICE_KIND_CUDA);
  order.mutable_device()->set_id("cuda:5");
  EXPECT_EQ(TrainOptionsFromOrder(order)->device.cuda_index, 5);
  order.mutable_device()->set_id("cuda:");
  EXPECT_FALSE(TrainOptionsFromOrder(order).ok());
}

TEST(TrainOptionsFromOrder, RefusesOrdersThatMakeNoSense) {
  v1::StartTraining order = Order();
  order.set_rank(2);
  EXPECT_EQ(TrainOptionsFromOrder(order).status().code(), absl::StatusCode::kInternal);
  order.set_rank(0);  // without a socket
  EXPECT_EQ(TrainOptionsFromOrder(order).status().code(), absl::StatusCode::kInternal);
  order.set_has_store_socket(true);
  EXPECT_EQ(TrainOptionsFromOrder(order)->store_fd, kStoreFd);
}

TEST(FailureReport, TellsWhoseFaultItIs) {
  EXPECT_EQ(FailureReport(InvalidArgument("data.path", "is gone")).kind(), v1::FAILURE_KIND_USER);
  EXPECT_EQ(FailureReport(InvalidArgument("data.path", "is gone")).problems(0).field(),
            "data.path");
  EXPECT_EQ(FailureReport(Error(absl::StatusCode::kUnavailable, kPeerLost, "gone")).kind(),
            v1::FAILURE_KIND_PEER);
  EXPECT_EQ(FailureReport(absl::UnavailableError("disk")).kind(), v1::FAILURE_KIND_INTERNAL);
  EXPECT_EQ(FailureReport(StatusOfException(std::bad_alloc(), "x")).kind(),
            v1::FAILURE_KIND_OUT_OF_MEMORY);
  EXPECT_EQ(
      FailureReport(StatusOfException(std::runtime_error("CUDA out of memory. Tried\nstack"), "x"))
          .kind(),
      v1::FAILURE_KIND_OUT_OF_MEMORY);
}

// A file's name may be any bytes; the agent would kill a trainer whose report it cannot parse.
TEST(FailureReport, IsAlwaysUtf8) {
  const v1::TrainerFailure failure =
      FailureReport(InvalidArgument("data.more_paths[0]", "/data/\xe9t\xe9.jsonl is not there"));
  v1::TrainerFailure parsed;
  ASSERT_TRUE(parsed.ParseFromString(failure.SerializeAsString()));
  EXPECT_THAT(parsed.message(), HasSubstr(".jsonl is not there"));
  ASSERT_EQ(parsed.problems_size(), 1);
  EXPECT_THAT(parsed.problems(0).description(), HasSubstr(".jsonl is not there"));
}

TEST(BlameField, KeepsWhatARestartMayCure) {
  EXPECT_EQ(ClassifyFailure(BlameField(absl::NotFoundError("x"), "data.path")),
            FailureClass::kUser);
  const absl::Status disk = BlameField(absl::ResourceExhaustedError("disk full"), "data.path");
  EXPECT_EQ(ClassifyFailure(disk), FailureClass::kInternal);
  EXPECT_THAT(disk.message(), HasSubstr("data.path"));
}

}  // namespace
}  // namespace mindforge
