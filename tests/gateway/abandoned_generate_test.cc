// Readers of the gateway's Generate that go away, in every way there is.
#include "coordinator/gateway/inference_gateway.h"
#include "gtest/gtest.h"
#include "tests/fakes/abandoned_readers.h"
#include "tests/gateway/fake_desired_models.h"
#include "tests/gateway/fake_worker.h"

namespace mindforge {
namespace {

class AbandonedGenerate : public ::testing::Test {
 protected:
  void Start(const StreamLimits& limits, absl::Duration idle) {
    v1::InferenceAgentServiceSynchronizeRequest report;
    report.set_worker_id(worker_.name());
    report.set_address(worker_.address());
    report.set_deployment("poems");
    report.set_weights_version("v1");
    report.set_numerics_id("n1");
    report.set_ready(true);
    report.set_slots(32);
    registry_.Report(report);
    // A few fill what flow control takes, and the next write waits for its reader.
    worker_.Set({.padding = 32 << 10});
    streams_ = std::make_unique<OpenStreams>(limits);
    gateway_ = std::make_unique<InferenceGateway>(pool_, *streams_);
    auto server = GrpcServer::Start({.listen = "127.0.0.1:0", .connection_idle = idle},
                                    {{v1::InferenceService::service_full_name(), gateway_.get()}});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
  }

  const RealClock clock_;
  FakeWorker worker_{"a"};
  FakeDesiredModels desired_;
  InferenceRegistry registry_{clock_, absl::Hours(1)};
  InferencePool pool_{clock_, registry_, desired_, {}, nullptr};
  std::unique_ptr<OpenStreams> streams_;
  std::unique_ptr<InferenceGateway> gateway_;
  std::unique_ptr<GrpcServer> server_;
};

TEST_F(AbandonedGenerate, LeavesNothingBehind) {
  Start({.unread = absl::Milliseconds(500)}, /*idle=*/absl::Milliseconds(500));
  for (const std::string way : kWaysToAbandon) {
    // The worker is in this process too, with a thread a stream and what gRPC has for that.
    EXPECT_TRUE(IsAsBeforeAfter(server_->address(), "generate", way, {.kept_bytes = 32 << 20}))
        << way;
  }
}

TEST_F(AbandonedGenerate, HoldsUpNoDrain) {
  Start({}, absl::Hours(1));
  const auto readers = Abandon(server_->address(), "generate", "silent", AbandonedCount());
  const absl::Time start = absl::Now();
  streams_->Drain();
  server_->Drain(absl::Seconds(60));
  ExpectQuickDrain(absl::Now() - start, AbandonedCount());
}

}  // namespace
}  // namespace mindforge
