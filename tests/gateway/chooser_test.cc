#include "coordinator/gateway/chooser.h"

#include "common/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

InferenceWorker Worker(const std::string& id, const std::string& deployment) {
  InferenceWorker worker;
  worker.id = WorkerId(id);
  worker.name = id;
  worker.deployment = deployment;
  worker.weights_version = "v1";
  worker.numerics_id = "n1";
  worker.ready = true;
  worker.slots = 4;
  return worker;
}

ChooseInput Two() {
  ChooseInput input;
  input.workers = {Worker("a", "poems"), Worker("b", "poems")};
  return input;
}

std::string Chosen(const ChooseInput& input) {
  const absl::StatusOr<InferenceWorker> worker = ChooseWorker(input);
  return worker.ok() ? worker->id.value() : std::string(worker.status().message());
}

TEST(Chooser, TakesTheOneWithFewestRequestsForItsSlots) {
  ChooseInput input = Two();
  input.in_flight = {{WorkerId("a"), 3}, {WorkerId("b"), 2}};
  EXPECT_EQ(Chosen(input), "b");
  input.workers[0].slots = 32;
  EXPECT_EQ(Chosen(input), "a");
}

TEST(Chooser, TakesTurnsAmongEqualOnes) {
  ChooseInput input = Two();
  EXPECT_EQ(Chosen(input), "a");
  input.turn = 1;
  EXPECT_EQ(Chosen(input), "b");
}

TEST(Chooser, LeavesOutTheExcludedTheUnreadyAndTheDraining) {
  ChooseInput input = Two();
  input.excluded = {WorkerId("a")};
  EXPECT_EQ(Chosen(input), "b");
  input.excluded.clear();
  input.workers[0].ready = false;
  EXPECT_EQ(Chosen(input), "b");
  input.workers[1].draining = true;
  EXPECT_THAT(Chosen(input), HasSubstr("b is draining"));
}

TEST(Chooser, TakesASuspectOnlyWhenThereIsNoOther) {
  ChooseInput input = Two();
  input.suspects = {WorkerId("a")};
  input.in_flight = {{WorkerId("b"), 100}};
  EXPECT_EQ(Chosen(input), "b");
  input.excluded = {WorkerId("b")};
  EXPECT_EQ(Chosen(input), "a");
}

TEST(Chooser, ContinuesOnlyOnTheSameWeightsAndNumerics) {
  ChooseInput input = Two();
  input.weights_version = "v1";
  input.numerics_id = "n1";
  input.workers[0].weights_version = "v2";
  EXPECT_EQ(Chosen(input), "b");
  input.workers[1].numerics_id = "n2";
  EXPECT_EQ(ChooseWorker(input).status().code(), absl::StatusCode::kUnavailable);
}

TEST(Chooser, SaysWhyALoadFailed) {
  ChooseInput input;
  input.model = "poems";
  input.deployments = {{"poems", ""}};
  input.workers = {Worker("a", "")};
  input.workers[0].load_error = "model.safetensors is truncated";
  EXPECT_THAT(Chosen(input), HasSubstr("a: model.safetensors is truncated"));
  EXPECT_THAT(Chosen(input), HasSubstr("mindforge model get poems"));
}

TEST(Chooser, RefusesAnUnknownNameWithTheNearestOne) {
  ChooseInput input = Two();
  input.model = "poem";
  EXPECT_EQ(ChooseWorker(input).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Chosen(input), HasSubstr("did you mean 'poems'?"));
}

}  // namespace
}  // namespace mindforge
