// Readers of a job's streams that go away, in every way there is: nothing of them stays, and a
// drain waits for none.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
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
    v1::SynchronizeRequest report = Obey("w1");
    for (int step = 1; step <= kRecords; ++step) {
      v1::SpooledProgress* progress = report.add_progress();
      progress->set_number(step);
      progress->set_job_id(job.id());
      progress->mutable_record()->set_step(step);
      progress->mutable_record()->set_total_steps(2 * kRecords);
      progress->mutable_record()->set_generation(1);
      progress->mutable_record()->set_loss(9);
      progress->mutable_record()->set_gradient_norm(1.5);
      progress->mutable_record()->set_learning_rate(1e-4);
      progress->mutable_record()->set_step_seconds(0.5);
      v1::SpooledLog* log = report.add_logs();
      log->set_number(step);
      log->set_job_id(job.id());
      log->mutable_line()->set_text(absl::StrCat(step, std::string(kLogBytes, 'x')));
    }
    v1::SynchronizeResponse response;
    MF_CHECK_OK(Synchronize(report, &response));
  }

  void Restart(const StreamLimits& limits, absl::Duration idle) {
    coordinator_->Drain(absl::ZeroDuration());
    coordinator_.reset();
    options_.streams = limits;
    options_.server.connection_idle = idle;
    Start();
  }
};

TEST_F(AbandonedStreams, LeaveNothingBehind) {
  Restart({.unread = absl::Milliseconds(500)}, /*idle=*/absl::Milliseconds(500));
  for (const char* kind : {"watch", "logs", "metrics"}) {
    for (const std::string way : kWaysToAbandon) {
      // What a job has said fits into a connection's buffers, and somebody who then waits for more
      // is no abandoned reader. Those that make a write wait are tested at the gateway.
      if (way == "silent") continue;
      EXPECT_TRUE(IsAsBeforeAfter(coordinator_->address(), kind, way)) << kind << " " << way;
    }
  }
}

TEST_F(AbandonedStreams, HoldUpNoDrain) {
  std::vector<std::unique_ptr<Subprocess>> readers;
  for (const char* kind : {"watch", "logs", "metrics"}) {
    readers.push_back(Abandon(coordinator_->address(), kind, "silent", AbandonedCount()));
  }
  const absl::Time start = absl::Now();
  coordinator_->Drain(absl::Seconds(60));
  const absl::Duration took = absl::Now() - start;
  std::printf("drained %d silent readers in %s\n", 3 * AbandonedCount(),
              absl::FormatDuration(took).c_str());
  EXPECT_LT(took, absl::Seconds(10));
}

}  // namespace
}  // namespace mindforge
