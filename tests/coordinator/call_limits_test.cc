// How much callers may have in hand at the coordinator, and who is heard all the same.
#include <gtest/gtest.h>

#include "tests/coordinator/service_fixture.h"

namespace mindforge {
namespace {

class CallLimitsTest : public ServiceFixture {};

TEST_F(CallLimitsTest, AgentsAreHeardHoweverMuchClientsHaveInHand) {
  const v1::Job job = SubmitGood("tang");
  coordinator_.reset();
  options_.server.limits.calls = 1;
  Start();
  grpc::ClientContext context;
  SetDeadline(context, kCallTimeout);
  v1::WatchJobRequest watched;
  watched.set_job(job.id());
  auto watch = jobs_->WatchJob(&context, watched);
  v1::WatchJobResponse seen;
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(GetReason(Cancel("tang")), "SERVER_BUSY");

  v1::SynchronizeResponse training;
  const absl::Status trains = Synchronize(Report("w1"), &training);
  EXPECT_TRUE(trains.ok()) << trains;
  v1::InferenceAgentServiceSynchronizeRequest report;
  report.set_worker_id("i1");
  report.set_name("i1");
  report.set_address("127.0.0.1:1");
  report.set_incarnation("one");
  report.set_no_park(true);
  v1::InferenceAgentServiceSynchronizeResponse desired;
  const absl::Status serves =
      Call(*inference_, &v1::InferenceAgentService::Stub::Synchronize, report, &desired);
  EXPECT_TRUE(serves.ok()) << serves;
  context.TryCancel();
  watch->Finish();
}

}  // namespace
}  // namespace mindforge
