// What callers see of calls that overtake each other, and of a coordinator that was restarted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "common/mutex.h"
#include "tests/coordinator/service_fixture.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

class RestartTest : public ServiceFixture {};

TEST_F(RestartTest, AnEndedJobsHistoryIsThereAfterARestart) {
  SubmitGood("tang");
  ASSERT_TRUE(Cancel("tang").ok());
  coordinator_.reset();
  Start();
  v1::GetJobRequest request;
  request.set_job("tang");
  v1::GetJobResponse response;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::GetJob, request, &response).ok());
  ASSERT_GE(response.events_size(), 2);
  EXPECT_EQ(response.events(response.events_size() - 1).state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(RestartTest, AJobThatAnOlderAgentWouldTrainOtherwiseStillWaitsForANewerOne) {
  v1::JobSpec spec = GoodJob("tang");
  spec.mutable_training()->set_schedule("cosine_from_lr");
  v1::SubmitJobResponse submitted;
  ASSERT_TRUE(Submit(spec, "one", &submitted).ok());
  coordinator_.reset();
  Start();
  v1::SynchronizeResponse response;
  ASSERT_TRUE(Synchronize(Report("w1"), &response).ok());  // its device names no numerics
  EXPECT_EQ(Get("tang").state(), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get("tang").reason(), HasSubstr("training.schedule"));
  v1::SynchronizeRequest newer = Report("w2");
  v1::DeviceNumerics* numerics = newer.mutable_devices(0)->add_numerics();
  numerics->set_dtype("bfloat16");
  numerics->set_name("cpu/x");
  ASSERT_TRUE(Synchronize(newer, &response).ok());
  EXPECT_EQ(Get("tang").state(), v1::JOB_STATE_STARTING) << Get("tang").reason();
}

TEST_F(RestartTest, AnOvertakenCallIsAnsweredAtOnce) {
  v1::SynchronizeRequest request = Report("w1");
  v1::SynchronizeResponse response;
  ASSERT_TRUE(Synchronize(request, &response).ok());
  // Parked, if it were the newest.
  request.set_no_park(false);
  request.set_known_version(response.desired_version());
  request.set_call_number(calls_);
  const absl::Time before = absl::Now();
  ASSERT_TRUE(Synchronize(request, &response).ok());
  EXPECT_LT(absl::Now() - before, absl::Seconds(4)) << "well before the park's five seconds";
}

// Of one agent's calls only one stays parked, whichever of them got there first.
TEST_F(RestartTest, OneOfAnAgentsParkedCallsAnswersTheOther) {
  v1::SynchronizeRequest request = Report("w1");
  v1::SynchronizeResponse registered;
  ASSERT_TRUE(Synchronize(request, &registered).ok());
  request.set_no_park(false);
  request.set_known_version(registered.desired_version());
  Mutex mutex;
  CondVar changed;
  int returned = 0;
  const auto call = [&] {
    v1::SynchronizeResponse response;
    EXPECT_TRUE(Synchronize(request, &response).ok());
    MutexLock lock(mutex);
    ++returned;
    changed.SignalAll();
  };
  const auto newest_call = [&] {
    int64_t newest = 0;
    coordinator_->shell().Peek([&](const sched::State& state, const sched::Now&) {
      newest = state.workers.at(WorkerId("w1-id")).newest_call;
    });
    return newest;
  };
  const absl::Time before = absl::Now();
  std::thread first(call);
  while (newest_call() < 2) std::this_thread::yield();  // else it is overtaken, and not parked
  std::thread second(call);
  {
    MutexLock lock(mutex);
    EXPECT_TRUE(changed.WaitFor(mutex, kCallTimeout, [&] { return returned > 0; }));
  }
  EXPECT_LT(absl::Now() - before, absl::Seconds(4)) << "well before the park's five seconds";
  coordinator_->Drain(kCallTimeout);
  first.join();
  second.join();
}

}  // namespace
}  // namespace mindforge
