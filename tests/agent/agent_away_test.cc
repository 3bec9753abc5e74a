// What an agent does for a coordinator, or for a successor of its own, that is not there yet.
#include <map>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "common/durable_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/agent/agent_fixture.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {
namespace {

using Heard = FakeCoordinator::Heard;

// The coordinator and who would have told it may go away together.
TEST_F(AgentTest, LooksForUnreportedCheckpointsOfItsJobsWhileTheCoordinatorIsAway) {
  StartAgent();
  v1::DesiredDevice desired = Desired("wait");
  desired.mutable_start()->set_checkpoint_dir(dir_.File("shared"));
  const std::string known = dir_.File("shared") + "/step-2.g1";
  v1::ResumePoint& point = *desired.mutable_start()->add_resume_points();
  point.set_path(known);
  point.set_step(2);
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  coordinator_.GoAway();
  for (const int64_t step : {2, 4}) {
    CheckpointContents contents;
    contents.state.job_id = "job-wait";
    contents.state.step = step;
    contents.state.generation = 1;
    ASSERT_TRUE(WriteCheckpoint(dir_.File("shared"), contents).ok());
  }
  CheckpointContents foreign;
  foreign.state.job_id = "another";
  foreign.state.step = 6;
  foreign.state.generation = 1;
  ASSERT_TRUE(WriteCheckpoint(dir_.File("shared"), foreign).ok());
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (agent_->checkpoints_waiting() == 0 && absl::Now() < deadline) std::this_thread::yield();
  coordinator_.Return();
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& h) { return !h.checkpoints.empty(); }));
  ASSERT_EQ(coordinator_.heard().checkpoints.size(), 1u);
  EXPECT_EQ(coordinator_.heard().checkpoints[0].checkpoint().path(),
            dir_.File("shared") + "/step-4.g1");
}

TEST_F(AgentTest, TellsAFailureOnce) {
  StartAgent();
  coordinator_.Want({Desired("fail"), Desired("mutefail", 1, 0, "cpu:1")});
  ASSERT_TRUE(coordinator_.WaitUntil(
      [](const Heard& heard) { return HasExit(heard) && HasExit(heard, "cpu:1"); }));
  StopAgent();  // tells what is left
  std::map<std::string, int> times;
  for (const std::string& text : coordinator_.heard().log_texts) {
    if (absl::StrContains(text, "line 3 is no JSON")) ++times[text];
  }
  EXPECT_THAT(times, testing::UnorderedElementsAre(
                         testing::Pair("data.path: line 3 is no JSON", 1),
                         testing::Pair("rank 0: data.path: line 3 is no JSON", 1)));
}

// As with a copy of its data folder on another machine.
TEST_F(AgentTest, EndsWithItsTrainersWhenAnotherAgentHasTakenItsPlace) {
  StartAgent();
  coordinator_.Want({Desired("wait")});
  ASSERT_TRUE(coordinator_.WaitUntil(IsTraining));
  const pid_t trainer = TrainerPid(coordinator_.heard());
  coordinator_.RefuseWith(Error(absl::StatusCode::kAborted, "AGENT_REPLACED", "another is there"));
  thread_.join();
  EXPECT_EQ(GetReason(outcome_), "AGENT_REPLACED") << outcome_;
  EXPECT_NE(kill(trainer, 0), 0) << "it is gone and reaped";
  agent_.reset();
}

TEST_F(AgentTest, ItsSuccessorTellsWhatItLeft) {
  farewell_ = absl::ZeroDuration();
  StartAgent();
  v1::DesiredDevice desired = Desired("steps");
  desired.mutable_start()->mutable_spec()->mutable_training()->set_max_steps(1500);
  desired.mutable_start()->mutable_spec()->mutable_data()->set_path(dir_.File("go"));
  coordinator_.Want({desired});
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& h) { return h.progress.size() == 1; }));
  coordinator_.GoAway();
  ASSERT_TRUE(WriteFileDurably(dir_.File("go"), "").ok());
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (agent_->checkpoints_waiting() == 0 && absl::Now() < deadline) std::this_thread::yield();
  StopAgent();
  coordinator_.Want({});
  coordinator_.Return();
  StartAgent();
  ASSERT_TRUE(coordinator_.WaitUntil([](const Heard& heard) {
    return heard.progress.size() == 1500 && heard.checkpoints.size() == 1;
  }));
  int64_t step = 0;
  for (const auto& [number, spooled] : coordinator_.heard().progress) {
    EXPECT_EQ(spooled.record().step(), ++step);
  }
  EXPECT_TRUE(coordinator_.heard().checkpoints[0].checkpoint().final());
  EXPECT_TRUE(HasLog(coordinator_.heard(), "started on cpu:0"));
}

}  // namespace
}  // namespace mindforge
