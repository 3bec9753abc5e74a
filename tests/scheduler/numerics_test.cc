// Jobs are pinned to numerics, not to builds: upgrades, earlier names, and a change on purpose.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/scheduler/placement.h"
#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kOld[] = "cpu/AuthenticAMD avx2/threads=2/0.1.0-Release";
constexpr char kNew[] = "cpu/AuthenticAMD/avx2/train-f32-1";
constexpr char kOther[] = "cpu/AuthenticAMD/avx2/train-f32-2";

class Numerics : public ::testing::Test {
 protected:
  JobId Submit(int min = 1, int max = 1) {
    JobWish wish;
    wish.name = "job";
    wish.dtype = "float32";
    wish.min_workers = min;
    wish.max_workers = max;
    wish.checkpoint_dir = "/checkpoints";
    return world_.SubmitWish(wish).job;
  }

  // An agent that names numerics, of `name` for float32.
  void AddWorker(const std::string& worker, const std::string& name,
                 const std::string& version = "1",
                 const std::string& former = "cpu/AuthenticAMD avx2/threads=*/0.1.0-Release") {
    SchedulerWorld::Agent agent;
    Device device{"cpu:0", DeviceKind::kCpu, "model", 0, 1, kOld};
    device.numerics = {{"bfloat16", "some-bf16", {}}, {"float32", name, {former}}};
    agent.devices = {device};
    agent.version = version;
    world_.agents[worker] = agent;
    world_.Call(worker);
  }

  // As kill -9 of the agent and the start of another build in its place.
  void Replace(const std::string& worker, const std::string& name, const std::string& version,
               const std::string& former = "") {
    SchedulerWorld::Agent& agent = world_.agent(worker);
    agent.incarnation += "+";
    agent.calls = 0;
    agent.version = version;
    agent.trainers.clear();
    agent.devices[0].numerics = {{"float32", name, {former}}};
    world_.Call(worker);
  }

  std::vector<std::string> History(const JobId& id) {
    std::vector<std::string> names;
    for (const NumericsChange& change : world_.job(id).numerics) names.push_back(change.name);
    return names;
  }
  std::string EventsOf(const JobId& id) {
    std::string all;
    for (const JobEvent& event : world_.job(id).events) all += event.reason + "\n";
    return all;
  }

  SchedulerWorld world_;
};

TEST_F(Numerics, AJobIsPinnedToThoseOfItsDtype) {
  AddWorker("w1", kNew);
  const JobId job = Submit();
  EXPECT_EQ(world_.job(job).device_signature, kNew);
  EXPECT_THAT(History(job), ElementsAre(kNew));
}

TEST_F(Numerics, ADeviceThatDoesNotTrainWithTheDtypeIsNotTaken) {
  AddWorker("w1", kNew);
  JobWish wish;
  wish.name = "half";
  wish.dtype = "float16";
  const JobId job = world_.SubmitWish(wish).job;
  EXPECT_EQ(world_.job(job).state, JobState::kQueued);
}

TEST_F(Numerics, WhatAnOlderBuildWouldLeaveUnreadIsNotTrainedThere) {
  world_.AddWorker("old");
  JobWish wish;
  wish.name = "job";
  wish.dtype = "float32";
  wish.newer_fields = "data.format, training.schedule";
  const JobId job = world_.SubmitWish(wish).job;
  EXPECT_EQ(world_.job(job).state, JobState::kQueued);
  EXPECT_THAT(world_.job(job).reason,
              HasSubstr("uses data.format, training.schedule, which the build of worker old does "
                        "not know: upgrade mindforge-worker there"));
  AddWorker("new", kNew);
  EXPECT_EQ(world_.job(job).members.at(0).worker, WorkerId("new-id")) << world_.job(job).reason;
  wish.name = "plain";
  wish.newer_fields = "";
  const JobId plain = world_.SubmitWish(wish).job;
  EXPECT_EQ(world_.job(plain).members.at(0).worker, WorkerId("old-id")) << world_.job(plain).reason;
}

TEST_F(Numerics, AnUpgradeWithTheSameBitsGoesOn) {
  AddWorker("w1", kNew, "1");
  const JobId job = Submit();
  world_.Obey("w1");
  ASSERT_EQ(world_.job(job).state, JobState::kRunning);
  Replace("w1", kNew, "2");
  world_.RestartCoordinator();
  world_.Call("w1");
  world_.Obey("w1");
  EXPECT_EQ(world_.job(job).state, JobState::kRunning) << world_.job(job).reason;
  EXPECT_THAT(History(job), ElementsAre(kNew));
}

TEST_F(Numerics, AJobOfABuildThatPinnedBuildsGoesOnUnderTheirName) {
  world_.AddWorker("w1", 1, kOld);
  const JobId job = Submit();
  world_.Obey("w1");
  ASSERT_EQ(world_.job(job).device_signature, kOld);
  Replace("w1", kNew, "2", "cpu/AuthenticAMD avx2/threads=*/0.1.0-Release");
  world_.Obey("w1");
  EXPECT_EQ(world_.job(job).state, JobState::kRunning) << world_.job(job).reason;
  EXPECT_EQ(world_.job(job).device_signature, kNew);
  EXPECT_THAT(History(job), ElementsAre(kNew));
  EXPECT_THAT(EventsOf(job), HasSubstr("the same bits"));
}

TEST_F(Numerics, OtherBitsWaitAndSayWhatToDo) {
  AddWorker("w1", kNew);
  const JobId job = Submit();
  world_.Obey("w1");
  Replace("w1", kOther, "2");
  EXPECT_EQ(world_.job(job).state, JobState::kQueued);
  EXPECT_EQ(world_.job(job).failures, 0);
  EXPECT_THAT(world_.job(job).reason, HasSubstr(kNew));
  EXPECT_THAT(world_.job(job).reason, HasSubstr(kOther));
  EXPECT_THAT(world_.job(job).reason, HasSubstr("mindforge job repin job"));
}

TEST_F(Numerics, ARepinLetsItGoOnAndIsRecorded) {
  AddWorker("w1", kNew);
  const JobId job = Submit();
  world_.Obey("w1");
  world_.Checkpointed("w1", job, 30);
  Replace("w1", kOther, "2");
  const Outcome outcome = world_.Do(RepinJob{"job", "", {"r", "d"}});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.name, kNew);
  world_.Obey("w1");
  EXPECT_EQ(world_.job(job).state, JobState::kRunning) << world_.job(job).reason;
  EXPECT_EQ(world_.job(job).device_signature, kOther);
  EXPECT_THAT(History(job), ElementsAre(kNew, kOther));
  EXPECT_EQ(world_.job(job).numerics[1].from_step, Step(30));
  EXPECT_THAT(EventsOf(job), HasSubstr("repinned as asked"));
  world_.RestartCoordinator();
  EXPECT_THAT(History(job), ElementsAre(kNew, kOther));
}

TEST_F(Numerics, ARepinToANameTakesOnlyOneThatAWorkerHas) {
  AddWorker("w1", kNew);
  const JobId job = Submit();
  world_.Obey("w1");
  Replace("w1", kOther, "2");
  const Outcome refused = world_.Do(RepinJob{"job", "cpu/typo", {"r", "d"}});
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status.message()), HasSubstr(kOther));
  ASSERT_TRUE(world_.Do(RepinJob{"job", kOther, {"r", "d"}}).status.ok());
  EXPECT_EQ(world_.job(job).state, JobState::kStarting);
  EXPECT_THAT(History(job), ElementsAre(kNew, kOther));
}

TEST_F(Numerics, ARunningJobIsNotRepinned) {
  AddWorker("w1", kNew);
  const JobId job = Submit();
  world_.Obey("w1");
  const Outcome outcome = world_.Do(RepinJob{"job", "", {"r", "d"}});
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("mindforge job pause job"));
  EXPECT_EQ(world_.job(job).device_signature, kNew);
  EXPECT_EQ(world_.Do(RepinJob{"nobody", "", {"s", "d"}}).status.code(),
            absl::StatusCode::kNotFound);
}

TEST_F(Numerics, OneGenerationIsOfOneBuild) {
  AddWorker("w1", kNew, "1");
  AddWorker("w2", kNew, "2");
  const JobId job = Submit(2, 2);
  EXPECT_EQ(world_.job(job).state, JobState::kQueued);
  EXPECT_THAT(world_.job(job).reason, HasSubstr("of one build"));
  Replace("w1", kNew, "2");
  EXPECT_EQ(world_.job(job).state, JobState::kStarting) << world_.job(job).reason;
}

}  // namespace
}  // namespace mindforge::sched
