// Synchronize of a training agent whose call has ended before the coordinator got to it. What it
// would touch by mistake is gRPC's memory, so AddressSanitizer is the judge of these tests.
#include <gtest/gtest.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/grpc_client.h"
#include "common/grpc_server.h"
#include "coordinator/rpc/worker_agent_service.h"
#include "tests/fakes/eventually.h"
#include "tests/fakes/held_core.h"

namespace mindforge {
namespace {

class ParkedSynchronize : public ::testing::Test {
 protected:
  ParkedSynchronize() {
    auto server = GrpcServer::Start({.listen = "127.0.0.1:0"}, {&service_});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
    auto channel = MakeChannel(server_->address());
    MF_CHECK_OK(channel);
    stub_ = v1::WorkerAgentService::NewStub(*channel);
    request_.set_worker_id("w1-id");
    request_.set_name("w1");
    request_.set_incarnation("one");
    request_.set_advertise_host("127.0.0.1");
    request_.set_call_number(1);
    request_.set_known_version(1);
    v1::Device* device = request_.add_devices();
    device->set_id("cpu:0");
    device->set_kind(v1::DEVICE_KIND_CPU);
    device->set_signature("cpu/x/1");
  }

  // Begins a call; `done_` is set when it has ended.
  void Begin() {
    SetDeadline(context_, absl::Seconds(60));
    stub_->async()->Synchronize(&context_, &request_, &response_, [this](grpc::Status status) {
      MutexLock lock(mutex_);
      status_ = status;
      done_ = true;
    });
  }
  bool Done() {
    MutexLock lock(mutex_);
    return done_;
  }
  // Ends the caller's side, then waits until the server has let go of the call.
  void Abandon() {
    context_.TryCancel();
    ASSERT_TRUE(Eventually([this] { return Done(); }));
    server_->Drain(absl::Seconds(60));
  }

  HeldCore core_;
  WorkerAgentService service_{core_, /*park=*/absl::Hours(1)};
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::WorkerAgentService::Stub> stub_;
  grpc::ClientContext context_;
  v1::SynchronizeRequest request_;
  v1::SynchronizeResponse response_;
  Mutex mutex_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(ParkedSynchronize, AReportThatIsDurableAfterItsCallEndedTouchesNothingOfIt) {
  Begin();
  ASSERT_TRUE(Eventually([this] { return core_.held() == 1; }));
  Abandon();
  core_.Release();
}

TEST_F(ParkedSynchronize, AChangeAfterItsCallEndedTouchesNothingOfIt) {
  Begin();
  ASSERT_TRUE(Eventually([this] { return core_.held() == 1; }));
  core_.Release();
  Abandon();
  core_.Wake();
}

}  // namespace
}  // namespace mindforge
