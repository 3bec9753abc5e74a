// The agent between a fake coordinator and fake trainers, and the program itself.
#include <signal.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "common/durable_file.h"
#include "common/subprocess.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/agent/agent_fixture.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Heard = FakeCoordinator::Heard;

TEST_F(AgentTest, RunsATrainerToItsEndAndTellsEverythingOnce) {
  StartAgent();
  coordinator_.Want({Desired("steps")});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) {
    return HasExit(heard) && heard.progress.size() == 3 && heard.checkpoints.size() == 1;
  }));
  const Heard heard = coordinator_.heard();
  EXPECT_TRUE(heard.devices.at("cpu:0").exit().clean());
  EXPECT_EQ(PhaseOf(heard), v1::TRAINER_PHASE_FINISHED);
  EXPECT_EQ(heard.progress.rbegin()->second.record().step(), 3);
  EXPECT_EQ(heard.progress.begin()->second.job_id(), "job-steps");
  EXPECT_EQ(heard.checkpoints[0].checkpoint().path(), "/nowhere/step-3.g1");
  EXPECT_THAT(heard.devices.at("cpu:0").rendezvous(), HasSubstr("127.0.0.1:"));
  EXPECT_TRUE(HasLog(heard, "has socket")) << "rank 0 inherits the store's socket";
  EXPECT_EQ(heard.last.devices_size(), 2);
  EXPECT_EQ(heard.last.devices(0).threads(), 1);
}

TEST_F(AgentTest, ShowsTheJobsMetricsUntilItIsForgotten) {
  StartAgent();
  coordinator_.Want({Desired("steps")});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  const std::string text = registry_->Text();
  EXPECT_THAT(text, HasSubstr("mindforge_train_step{job=\"job-steps\"} 3"));
  EXPECT_THAT(text, HasSubstr("mindforge_train_tokens_total{job=\"job-steps\"} 30"));
  EXPECT_THAT(text, HasSubstr("mindforge_train_step_seconds_count{job=\"job-steps\","));
  EXPECT_THAT(text, HasSubstr("mindforge_worker_coordinator_reachable 1"));
  coordinator_.Want({});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return heard.devices.empty(); }));
  EXPECT_THAT(registry_->Text(), Not(HasSubstr("job-steps")));
}

TEST_F(AgentTest, ForwardsTheMeetingPlaceAndTheStop) {
  StartAgent();
  v1::DesiredDevice desired = Desired("join", 1, 1);
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return TrainerPid(heard) != 0; }));
  desired.set_rendezvous("10.0.0.1:1234");
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  EXPECT_TRUE(
      coordinator_.WaitUntil([](const Heard& h) { return HasLog(h, "meets at 10.0.0.1:1234"); }));
  desired.mutable_stop()->set_mode(v1::STOP_MODE_CHECKPOINT);
  desired.mutable_stop()->set_sequence(1);
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  const Heard heard = coordinator_.heard();
  EXPECT_TRUE(heard.devices.at("cpu:0").exit().clean());
  EXPECT_EQ(heard.devices.at("cpu:0").stop_sequence(), 1);
  EXPECT_EQ(PhaseOf(heard), v1::TRAINER_PHASE_STOPPED);
}

TEST_F(AgentTest, SpoolsWhileTheCoordinatorIsAwayAndDeliversEachRecordOnce) {
  StartAgent();
  v1::DesiredDevice desired = Desired("steps");
  desired.mutable_start()->mutable_spec()->mutable_training()->set_max_steps(2500);
  desired.mutable_start()->mutable_spec()->mutable_data()->set_path(dir_.File("go"));
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& h) { return h.progress.size() == 1; }));
  coordinator_.GoAway();
  ASSERT_TRUE(WriteFileDurably(dir_.File("go"), "").ok());
  // All steps are done while nobody listens.
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  const std::string done = "mindforge_train_step{job=\"job-steps\"} 2500";
  while (!absl::StrContains(registry_->Text(), done)) {
    ASSERT_LT(absl::Now(), deadline) << registry_->Text();
    std::this_thread::yield();
  }
  EXPECT_THAT(registry_->Text(), HasSubstr("mindforge_worker_spooled_records{kind=\"progress\"}"));
  coordinator_.Return();
  ASSERT_TRUE(coordinator_.WaitUntil(
      [](const Heard& heard) { return HasExit(heard) && heard.progress.size() == 2500; }));
  int64_t expected = 0;
  for (const auto& [number, spooled] : coordinator_.heard().progress) {
    EXPECT_EQ(number, ++expected);
    EXPECT_EQ(spooled.record().step(), expected);
  }
  EXPECT_EQ(coordinator_.heard().checkpoints.size(), 1u);
}

TEST_F(AgentTest, ReportsAKilledTrainerWithItsCause) {
  StartAgent();
  coordinator_.Want({Desired("wait")});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  kill(TrainerPid(coordinator_.heard()), SIGKILL);
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  const v1::TrainerExit exit = coordinator_.heard().devices.at("cpu:0").exit();
  EXPECT_FALSE(exit.clean());
  EXPECT_THAT(exit.cause(), HasSubstr("killed by signal 9"));
}

TEST_F(AgentTest, CountsTheCheckpointsThatCouldNotBeWritten) {
  StartAgent();
  v1::DesiredDevice desired = Desired("nodisk");
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) {
    const auto device = heard.devices.find("cpu:0");
    return device != heard.devices.end() && device->second.checkpoint_failures() == 2;
  }));
  EXPECT_EQ(coordinator_.heard().devices.at("cpu:0").checkpoint_error(),
            "step 20: No space left on device");
  desired.mutable_stop()->set_mode(v1::STOP_MODE_CHECKPOINT);
  desired.mutable_stop()->set_sequence(1);
  coordinator_.Want({desired});  // one that is written ends the row
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  EXPECT_EQ(coordinator_.heard().devices.at("cpu:0").checkpoint_failures(), 0);
  EXPECT_EQ(coordinator_.heard().devices.at("cpu:0").checkpoint_error(), "");
}

TEST_F(AgentTest, KillsAFrozenTrainerWhoseGenerationIsOver) {
  StartAgent();
  coordinator_.Want({Desired("wait")});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  const pid_t frozen = TrainerPid(coordinator_.heard());
  kill(frozen, SIGSTOP);
  coordinator_.Want({Desired("wait", /*generation=*/2)});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) {
    const auto device = heard.devices.find("cpu:0");
    return device != heard.devices.end() && device->second.generation() == 2;
  }));
  EXPECT_NE(kill(frozen, 0), 0);
}

// Its trainer compares what the job is pinned to with what it has itself.
TEST_F(AgentTest, HandsTheJobsPinToTheTrainer) {
  StartAgent();
  v1::DesiredDevice desired = Desired("device");
  desired.mutable_start()->mutable_device()->set_signature("cpu/what/the/job/began/with");
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  EXPECT_EQ(coordinator_.heard().devices.at("cpu:0").exit().failure().message(),
            "cpu:0 pinned to cpu/what/the/job/began/with");
}

TEST_F(AgentTest, ReportsAUsersFailureAndACrash) {
  StartAgent();
  coordinator_.Want({Desired("fail"), Desired("crash", 1, 0, "cpu:1")});
  ASSERT_TRUE(coordinator_.WaitUntil(
      [](const Heard& heard) { return HasExit(heard) && HasExit(heard, "cpu:1"); }));
  const Heard heard = coordinator_.heard();
  EXPECT_EQ(heard.devices.at("cpu:0").exit().failure().kind(), v1::FAILURE_KIND_USER);
  EXPECT_THAT(heard.devices.at("cpu:1").exit().cause(), HasSubstr("terminate called"));
}

TEST_F(AgentTest, ReportsATrainerThatCannotBeStarted) {
  options_.trainer = "/no/such/trainer";
  StartAgent();
  coordinator_.Want({Desired("wait")});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  EXPECT_THAT(coordinator_.heard().devices.at("cpu:0").exit().cause(),
              HasSubstr("/no/such/trainer: No such file"));
}

TEST_F(AgentTest, StopsAStaleGenerationAndStartsTheNew) {
  StartAgent();
  coordinator_.Want({Desired("wait", 1)});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  const pid_t old = TrainerPid(coordinator_.heard());
  coordinator_.Want({Desired("wait", 2)});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) {
    return IsTraining(heard) && heard.devices.at("cpu:0").generation() == 2;
  }));
  EXPECT_EQ(kill(old, 0), -1) << "the old one is gone before the new one starts";
}

TEST_F(AgentTest, KillsATrainerThatCannotBeHeard) {
  StartAgent();
  coordinator_.Want({Desired("garble")});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  EXPECT_TRUE(HasLog(coordinator_.heard(), "reports broke off"));
  const v1::TrainerExit exit = coordinator_.heard().devices.at("cpu:0").exit();
  EXPECT_THAT(exit.cause(), HasSubstr("by its agent: its reports broke off"));
  EXPECT_EQ(exit.failure().kind(), v1::FAILURE_KIND_INTERNAL) << "it counts";
}

TEST_F(AgentTest, KillsATrainerThatClosesItsReportsAndStays) {
  options_.trainer_exit_timeout = absl::Milliseconds(50);
  StartAgent();
  coordinator_.Want({Desired("deaf")});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return HasExit(heard); }));
  const v1::TrainerExit exit = coordinator_.heard().devices.at("cpu:0").exit();
  EXPECT_THAT(exit.cause(), HasSubstr("it closed its reports but did not exit within 50ms"));
  EXPECT_EQ(exit.failure().kind(), v1::FAILURE_KIND_INTERNAL);
}

TEST_F(AgentTest, DrainsWithACheckpointWhenTheCoordinatorSaysNothing) {
  StartAgent();
  coordinator_.Want({Desired("wait")});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  StopAgent();
  const Heard heard = coordinator_.heard();
  EXPECT_TRUE(heard.drained);
  ASSERT_TRUE(HasExit(heard)) << "the end is told before the agent goes";
  EXPECT_TRUE(heard.devices.at("cpu:0").exit().clean());
  EXPECT_EQ(heard.checkpoints.size(), 1u);
}

TEST_F(AgentTest, DrainsWithoutACoordinator) {
  farewell_ = absl::Milliseconds(100);
  StartAgent();
  coordinator_.Want({Desired("wait")});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  const pid_t trainer = TrainerPid(coordinator_.heard());
  coordinator_.GoAway();
  StopAgent();
  EXPECT_EQ(kill(trainer, 0), -1);
}

TEST_F(AgentTest, VerifiesAndDeletesFoldersAsAsked) {
  StartAgent();
  const std::string folder = dir_.File("step-4.g1");
  ASSERT_TRUE(MakeDirs(folder).ok());
  ASSERT_TRUE(MakeDirs(dir_.File("precious")).ok());
  coordinator_.AskVerify(folder);
  ASSERT_TRUE(coordinator_.WaitUntil([&](const Heard& h) { return h.verified.count(folder); }));
  EXPECT_FALSE(coordinator_.heard().verified.at(folder).valid());
  EXPECT_FALSE(coordinator_.heard().verified.at(folder).unreadable()) << "it is there, and empty";
  EXPECT_NE(coordinator_.heard().verified.at(folder).detail(), "");
  coordinator_.AskDelete(dir_.File("precious"));
  coordinator_.AskDelete(folder);
  ASSERT_TRUE(coordinator_.WaitUntil([&](const Heard& h) { return h.deleted.count(folder); }));
  EXPECT_FALSE(PathExists(folder));
  EXPECT_TRUE(PathExists(dir_.File("precious"))) << "no checkpoint's folder is ever touched";
}

TEST_F(AgentTest, KeepsItsIdAndChangesItsIncarnationOverARestart) {
  StartAgent();
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return heard.calls > 0; }));
  const v1::SynchronizeRequest before = coordinator_.heard().last;
  StopAgent();
  StartAgent();
  ASSERT_TRUE(coordinator_.WaitUntil(
      [&](const Heard& heard) { return heard.last.incarnation() != before.incarnation(); }));
  EXPECT_EQ(coordinator_.heard().last.worker_id(), before.worker_id());
  EXPECT_FALSE(coordinator_.heard().misnumbered);
}

// A crash between a checkpoint's rename and its report must not lose it.
TEST_F(AgentTest, ReportsTheNewestSoundCheckpointOfJobsThatRanBeforeARestart) {
  std::string newest;
  for (const int64_t step : {3, 7, 9}) {
    CheckpointContents contents;
    contents.state.job_id = "j";
    contents.state.step = step;
    contents.state.generation = 2;
    contents.state.loss = 1.5;
    const auto folder = WriteCheckpoint(dir_.File("ckpt"), contents);
    ASSERT_TRUE(folder.ok()) << folder.status();
    if (step == 7) newest = folder->path;
    // The last one was damaged.
    if (step == 9) {
      ASSERT_TRUE(WriteFileDurably(folder->path + "/state.json", "{}").ok());
    }
  }
  {
    const auto before = Identity::Open(dir_.File("data"));
    ASSERT_TRUE((*before)->SetJobs({{"j", dir_.File("ckpt")}, {"k", dir_.File("none")}}).ok());
  }
  StartAgent();
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& h) { return !h.checkpoints.empty(); }));
  EXPECT_EQ(coordinator_.heard().calls, 1) << "before the coordinator forms a new generation";
  const v1::SpooledCheckpoint found = coordinator_.heard().checkpoints[0];
  EXPECT_EQ(found.job_id(), "j");
  EXPECT_EQ(found.checkpoint().path(), newest);
  EXPECT_EQ(found.checkpoint().generation(), 2);
  EXPECT_EQ(found.checkpoint().loss(), 1.5);
  EXPECT_EQ(found.checkpoint().manifest_digest().size(), 16u);
  EXPECT_GT(found.checkpoint().size_bytes(), 0);
}

TEST_F(AgentTest, AnAgentsDeathLeavesNoOrphan) {
  const char* const bin = ::getenv("MINDFORGE_BIN");
  if (bin == nullptr) GTEST_SKIP() << "MINDFORGE_BIN names the programs' folder";
  auto program =
      Subprocess::Spawn({.argv = {std::string(bin) + "/mindforge-worker", "--coordinator",
                                  coordinator_.address(), "--devices", "cpu:1", "--data-dir",
                                  dir_.File("program"), "--metrics", "127.0.0.1:0"},
                         .env = {std::string("MINDFORGE_TRAINER=") + FAKE_TRAINER},
                         .capture_output = false});
  ASSERT_TRUE(program.ok()) << program.status();
  coordinator_.Want({Desired("wait")});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  const pid_t trainer = TrainerPid(coordinator_.heard());
  ASSERT_EQ(kill(trainer, 0), 0);
  (*program)->Kill(SIGKILL);
  (*program)->Wait();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  // A zombie that nobody has reaped yet still answers to kill(0): look at its state instead.
  const auto alive = [&] {
    const auto stat = ReadFile("/proc/" + std::to_string(trainer) + "/stat", 4096);
    return stat.ok() && !absl::StrContains(*stat, ") Z ");
  };
  while (alive() && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_FALSE(alive());
}

TEST_F(AgentTest, TheProgramDrainsOnSigtermAndExitsWithZero) {
  const char* const bin = ::getenv("MINDFORGE_BIN");
  if (bin == nullptr) GTEST_SKIP() << "MINDFORGE_BIN names the programs' folder";
  auto program =
      Subprocess::Spawn({.argv = {std::string(bin) + "/mindforge-worker", "--coordinator",
                                  coordinator_.address(), "--devices", "cpu:1", "--data-dir",
                                  dir_.File("program"), "--metrics", "127.0.0.1:0"},
                         .env = {std::string("MINDFORGE_TRAINER=") + FAKE_TRAINER},
                         .capture_output = false});
  ASSERT_TRUE(program.ok()) << program.status();
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) { return heard.calls > 0; }));
  (*program)->Kill(SIGTERM);
  const auto exit = (*program)->WaitFor(absl::Seconds(30));
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->ok()) << exit->ToString();
}

}  // namespace
}  // namespace mindforge
