// Devices that fail: who is blamed, who is placed elsewhere, and until when.
#include "coordinator/scheduler/device_faults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class DeviceFaultsTest : public ::testing::Test {
 protected:
  // Time passes in which all agents call.
  void Pass(absl::Duration time) {
    for (absl::Duration passed; passed < time; passed += absl::Seconds(5)) {
      world_.Advance(absl::Seconds(5));
      for (const auto& [name, agent] : world_.agents) world_.Call(name);
    }
  }
  const std::string& WorkerOf(const JobId& id) {
    return world_.job(id).members.at(0).worker.value();
  }
  // The job's only trainer ends so, on whichever worker it is, and the pause after it passes.
  void Fail(const JobId& id, FailureKind kind) {
    world_.RunAll();
    ASSERT_EQ(world_.job(id).state, JobState::kRunning) << world_.job(id).reason;
    const std::string id_of_worker = WorkerOf(id);
    const std::string worker = id_of_worker.substr(0, id_of_worker.size() - 3);
    world_.EndTrainer(worker, Failed(kind, "CUDA error"));
    world_.RunAll();
    Pass(absl::Seconds(5));
  }
  JobId SubmitPatient(const std::string& name) {
    JobWish wish;
    wish.name = name;
    wish.max_failures = 100;
    return world_.SubmitWish(wish).job;
  }
  const DeviceFaults* FaultsOn(const std::string& worker) {
    const auto& faults = world_.state.workers.at(WorkerId(worker + "-id")).faults;
    return faults.empty() ? nullptr : &faults.begin()->second;
  }

  SchedulerWorld world_;
};

TEST_F(DeviceFaultsTest, AJobGoesToAnotherDeviceThanTheOneThatFailed) {
  world_.AddWorker("bad");
  world_.AddWorker("good");
  const JobId job = world_.Submit("job");
  ASSERT_EQ(WorkerOf(job), "bad-id");
  Fail(job, FailureKind::kInternal);
  EXPECT_EQ(world_.job(job).failures, 1);
  EXPECT_EQ(WorkerOf(job), "good-id") << world_.job(job).reason;
}

TEST_F(DeviceFaultsTest, OneThatFailsTwiceIsSetAsideForAGrowingTimeWhoeversJobItWas) {
  world_.AddWorker("bad");
  world_.AddWorker("good");
  const JobId busy = SubmitPatient("busy");
  world_.RunAll();
  ASSERT_EQ(WorkerOf(busy), "bad-id");
  const JobId other = SubmitPatient("other");  // on the good one
  Fail(busy, FailureKind::kInternal);          // no other device is free: there again
  ASSERT_EQ(WorkerOf(busy), "bad-id");
  Fail(busy, FailureKind::kInternal);
  EXPECT_EQ(world_.job(busy).state, JobState::kQueued);
  EXPECT_THAT(world_.job(busy).reason,
              AllOf(HasSubstr("worker good holds job other"),
                    HasSubstr("device cpu:0 of worker bad is set aside until "),
                    HasSubstr("after 2 failures in a row, the last: CUDA error")));
  ASSERT_NE(FaultsOn("bad"), nullptr);
  EXPECT_TRUE(IsSetAside(*FaultsOn("bad"), other, world_.now.mono)) << "for others as well";
  // It is tried again after a minute; the next failure doubles the time.
  Pass(kFirstSetAside);
  ASSERT_EQ(world_.job(busy).members.size(), 1u) << world_.job(busy).reason;
  Fail(busy, FailureKind::kInternal);
  EXPECT_EQ(world_.job(busy).state, JobState::kQueued);
  Pass(kFirstSetAside);
  EXPECT_EQ(world_.job(busy).state, JobState::kQueued) << world_.job(busy).reason;
  Pass(kFirstSetAside);
  EXPECT_EQ(world_.job(busy).members.size(), 1u) << world_.job(busy).reason;
}

TEST_F(DeviceFaultsTest, TheTimeDoublesUpToAnHour) {
  EXPECT_EQ(SetAsideFor(0), absl::Minutes(1));
  EXPECT_EQ(SetAsideFor(1), absl::Minutes(2));
  EXPECT_EQ(SetAsideFor(6), absl::Hours(1));
  EXPECT_EQ(SetAsideFor(1000), absl::Hours(1));
}

TEST_F(DeviceFaultsTest, AJobThatFailsOnSeveralDevicesIsTheCauseItself) {
  world_.AddWorker("w1");
  world_.AddWorker("w2");
  const JobId job = SubmitPatient("job");
  Fail(job, FailureKind::kInternal);
  EXPECT_NE(FaultsOn("w1"), nullptr);
  Fail(job, FailureKind::kInternal);
  EXPECT_EQ(FaultsOn("w1"), nullptr);
  EXPECT_EQ(FaultsOn("w2"), nullptr);
  EXPECT_THAT(world_.job(job).reason, Not(HasSubstr("set aside")));
}

TEST_F(DeviceFaultsTest, TheOnlyDeviceIsUsedAllTheSame) {
  world_.AddWorker("only");
  const JobId job = SubmitPatient("job");
  Fail(job, FailureKind::kInternal);
  Fail(job, FailureKind::kInternal);
  EXPECT_EQ(world_.job(job).members.size(), 1u) << world_.job(job).reason;
  EXPECT_THAT(world_.job(job).reason, HasSubstr("but without it there are too few"));
}

TEST_F(DeviceFaultsTest, AWorkerThatIsUnfitForAJobIsLeftOutForItAlone) {
  world_.AddWorker("unfit");
  world_.AddWorker("w2");
  const JobId job = world_.Submit("job");
  ASSERT_EQ(WorkerOf(job), "unfit-id");
  Fail(job, FailureKind::kWorker);
  EXPECT_EQ(world_.job(job).failures, 0);
  EXPECT_EQ(WorkerOf(job), "w2-id") << world_.job(job).reason;
  const JobId other = world_.Submit("other");
  EXPECT_EQ(WorkerOf(other), "unfit-id") << world_.job(other).reason;
}

TEST_F(DeviceFaultsTest, WhatAWorkerLacksForOneJobSetsItAsideForNoOther) {
  world_.AddWorker("w1");
  const JobId sick = SubmitPatient("sick");
  Fail(sick, FailureKind::kInternal);
  Fail(sick, FailureKind::kInternal);
  world_.Do(CancelJob{"sick", {"cancel", "d"}});
  world_.RunAll();
  Pass(kFirstSetAside);
  ASSERT_NE(FaultsOn("w1"), nullptr);
  ASSERT_FALSE(IsSetAside(*FaultsOn("w1"), JobId(), world_.now.mono)) << "the minute is over";
  const JobId job = world_.Submit("job");
  Fail(job, FailureKind::kWorker);
  ASSERT_NE(FaultsOn("w1"), nullptr);
  EXPECT_TRUE(IsSetAside(*FaultsOn("w1"), job, world_.now.mono));
  EXPECT_FALSE(IsSetAside(*FaultsOn("w1"), JobId("another-id"), world_.now.mono));
}

TEST_F(DeviceFaultsTest, AnUnfitWorkerIsNotPreferredThoughEveryOtherDeviceIsHeld) {
  world_.AddWorker("unfit");
  world_.AddWorker("w2");
  const JobId job = world_.Submit("job");
  const JobId other = world_.Submit("other");
  ASSERT_EQ(WorkerOf(other), "w2-id");
  Fail(job, FailureKind::kWorker);
  EXPECT_EQ(world_.job(job).state, JobState::kQueued);
  EXPECT_THAT(world_.job(job).reason,
              HasSubstr("device cpu:0 of worker unfit is set aside until "));
}

TEST_F(DeviceFaultsTest, AGoodRunAndAPersonsWordClearTheRecord) {
  world_.AddWorker("w1");
  const JobId job = SubmitPatient("job");
  Fail(job, FailureKind::kInternal);
  Fail(job, FailureKind::kInternal);
  ASSERT_NE(FaultsOn("w1"), nullptr);
  const Outcome outcome = world_.Do(DrainWorker{"w1", false, {"resume", "d"}});
  EXPECT_TRUE(outcome.status.ok());
  EXPECT_EQ(FaultsOn("w1"), nullptr);
  Fail(job, FailureKind::kInternal);
  ASSERT_NE(FaultsOn("w1"), nullptr);
  world_.RunAll();
  world_.Do(PauseJob{"job", {"pause", "d"}});
  world_.EndTrainer("w1", Clean(), Phase::kStopped);
  EXPECT_EQ(FaultsOn("w1"), nullptr);
}

TEST_F(DeviceFaultsTest, AKilledTrainerIsNoFaultOfItsDevice) {
  world_.AddWorker("w1");
  const JobId job = world_.Submit("job");
  world_.RunAll();
  world_.Progressed("w1", job, 1);
  world_.EndTrainer("w1", Killed());
  EXPECT_EQ(FaultsOn("w1"), nullptr);
}

}  // namespace
}  // namespace mindforge::sched
