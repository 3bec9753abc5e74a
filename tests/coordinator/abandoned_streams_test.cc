// Readers of a job's streams that go away, in every way there is: nothing of them stays, and a
// drain waits for none.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/coordinator/service_fixture.h"
#include "tests/fakes/abandoned_readers.h"

namespace mindforge {
namespace {

constexpr int kRecords = 200;
constexpr int kLogBytes = 2 << 10;

class AbandonedStreams : public ServiceFixture {
 protected:
  AbandonedStreams() {
    const v1::Job job = SubmitGood("tang");
    report_ = Obey("w1");
    job_ = job.id();
    GoOn(kRecords);
  }

  // The job does some steps and says something at each.
  void GoOn(int steps) {
    report_.clear_progress();
    report_.clear_logs();
    for (const int end = step_ + steps; step_ < end;) {
      ++step_;
      v1::SpooledProgress* progress = report_.add_progress();
      progress->set_number(step_);
      progress->set_job_id(job_);
      progress->mutable_record()->set_step(step_);
      progress->mutable_record()->set_total_steps(1'000'000);
      progress->mutable_record()->set_generation(1);
      progress->mutable_record()->set_loss(9);
      progress->mutable_record()->set_gradient_norm(1.5);
      progress->mutable_record()->set_learning_rate(1e-4);
      progress->mutable_record()->set_step_seconds(0.5);
      v1::SpooledLog* log = report_.add_logs();
      log->set_number(step_);
      log->set_job_id(job_);
      log->mutable_line()->set_text(absl::StrCat(step_, std::string(kLogBytes, 'x')));
    }
    v1::SynchronizeResponse response;
    MF_CHECK_OK(Synchronize(report_, &response));
  }

  void Restart(const StreamLimits& limits, absl::Duration idle) {
    coordinator_->Drain(absl::ZeroDuration());
    coordinator_.reset();
    options_.streams = limits;
    options_.server.connection_idle = idle;
    Start();
  }

  v1::SynchronizeRequest report_;
  std::string job_;
  int step_ = 0;
};

TEST_F(AbandonedStreams, LeaveNothingBehind) {
  Restart({.unread = absl::Milliseconds(500)}, /*idle=*/absl::Milliseconds(500));
  for (const char* kind : {"watch", "logs", "metrics"}) {
    for (const std::string way : kWaysToAbandon) {
      AbandonedOptions options;
      // Whoever waits for a job that makes no progress is not silent.
      if (way == "silent") options.meanwhile = [this] { GoOn(1); };
      EXPECT_TRUE(IsAsBeforeAfter(coordinator_->address(), kind, way, options))
          << kind << " " << way;
    }
  }
}

TEST_F(AbandonedStreams, HoldUpNoDrain) {
  for (const char* kind : {"watch", "logs", "metrics"}) {
    Restart({}, /*idle=*/absl::Hours(1));
    const auto readers = Abandon(coordinator_->address(), kind, "silent", AbandonedCount());
    const absl::Time start = absl::Now();
    coordinator_->Drain(absl::Seconds(60));
    ExpectQuickDrain(absl::Now() - start, AbandonedCount());
  }
}

// Who watches the health of a server does so for ever.
TEST_F(AbandonedStreams, ThatWatchTheHealthHoldUpNoDrain) {
  const auto channel = *MakeChannel(coordinator_->address());
  grpc::ClientContext context;
  SetDeadline(context, absl::Minutes(5));
  const auto watch = grpc::health::v1::Health::NewStub(channel)->Watch(
      &context, grpc::health::v1::HealthCheckRequest());
  grpc::health::v1::HealthCheckResponse health;
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  const absl::Time start = absl::Now();
  coordinator_->Drain(absl::Seconds(60));
  ExpectQuickDrain(absl::Now() - start, 1);
}

}  // namespace
}  // namespace mindforge
