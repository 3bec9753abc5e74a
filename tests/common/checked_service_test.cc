// Requests that no handler should see.
#include "common/checked_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/check.h"
#include "common/grpc_client.h"
#include "common/grpc_server.h"
#include "common/grpc_status.h"
#include "grpcpp/generic/generic_stub.h"
#include "mindforge/v1/worker_service.grpc.pb.h"
#include "tests/fakes/eventually.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

// Answers what it is asked; "hold" waits for Release.
class Handlers : public v1::WorkerService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetWorker(grpc::CallbackServerContext* context,
                                      const v1::GetWorkerRequest* request,
                                      v1::GetWorkerResponse* response) override {
    response->mutable_worker()->set_name(request->worker());
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    MutexLock lock(mutex_);
    ++calls_;
    if (request->worker() == "hold") {
      held_.push_back(reactor);
    } else {
      reactor->Finish(grpc::Status::OK);
    }
    return reactor;
  }
  void Release() {
    std::vector<grpc::ServerUnaryReactor*> held;
    {
      MutexLock lock(mutex_);
      held.swap(held_);
    }
    for (grpc::ServerUnaryReactor* reactor : held) reactor->Finish(grpc::Status::OK);
  }
  int calls() {
    MutexLock lock(mutex_);
    return calls_;
  }

 private:
  Mutex mutex_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<grpc::ServerUnaryReactor*> held_ ABSL_GUARDED_BY(mutex_);
};

class CheckedServiceTest : public ::testing::Test {
 protected:
  void Start(CallLimits limits = {}) {
    auto server = GrpcServer::Start({.listen = "127.0.0.1:0", .limits = limits},
                                    {{v1::WorkerService::service_full_name(), &handlers_}});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
    channel_ = *MakeChannel(server_->address());
    stub_ = v1::WorkerService::NewStub(channel_);
  }

  // Calls `method` with these bytes for a request.
  absl::Status CallRaw(const std::string& method, const std::string& bytes) {
    grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(60));
    Mutex mutex;
    CondVar changed;
    std::optional<grpc::Status> result;
    grpc::GenericStub(channel_).UnaryCall(&context, method, {}, &request, &response,
                                          [&](grpc::Status status) {
                                            MutexLock lock(mutex);
                                            result = status;
                                            changed.Signal();
                                          });
    MutexLock lock(mutex);
    while (!result.has_value()) changed.Wait(mutex);
    return FromGrpcStatus(*result);
  }
  absl::Status Get(const std::string& worker, std::string* name = nullptr) {
    v1::GetWorkerRequest request;
    request.set_worker(worker);
    v1::GetWorkerResponse response;
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(60));
    const grpc::Status status = stub_->GetWorker(&context, request, &response);
    if (name != nullptr) *name = response.worker().name();
    return FromGrpcStatus(status);
  }

  Handlers handlers_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
};

// Half-closes a call without having sent a message.
class NoMessage : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  absl::Status Call(const std::shared_ptr<grpc::Channel>& channel) {
    SetDeadline(context_, absl::Seconds(60));
    grpc::GenericStub(channel).PrepareBidiStreamingCall(
        &context_, "/mindforge.v1.WorkerService/GetWorker", {}, this);
    StartWritesDone();
    StartCall();
    MutexLock lock(mutex_);
    while (!status_.has_value()) done_.Wait(mutex_);
    return FromGrpcStatus(*status_);
  }
  void OnDone(const grpc::Status& status) override {
    MutexLock lock(mutex_);
    status_ = status;
    done_.Signal();
  }

 private:
  grpc::ClientContext context_;
  Mutex mutex_;
  CondVar done_;
  std::optional<grpc::Status> status_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(CheckedServiceTest, ACallWithoutAMessageIsRefused) {
  Start();
  const absl::Status status = NoMessage().Call(channel_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(status.message(), HasSubstr("no request message"));
  EXPECT_TRUE(Get("w1").ok());
}

TEST_F(CheckedServiceTest, PassesAGoodRequestOn) {
  Start();
  std::string name;
  EXPECT_TRUE(Get("gpu é 月", &name).ok());
  EXPECT_EQ(name, "gpu é 月");
}

TEST_F(CheckedServiceTest, RefusesTextThatIsNotUtf8ByItsField) {
  Start();
  const absl::Status status = Get("caf\xe9");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  ASSERT_EQ(GetViolations(status).size(), 1u);
  EXPECT_EQ(GetViolations(status)[0].field, "worker");
  EXPECT_THAT(GetViolations(status)[0].description, HasSubstr("byte 0xE9 at offset 3"));
  EXPECT_EQ(GetReason(status), "INVALID_FIELD");
  EXPECT_EQ(handlers_.calls(), 0);
  EXPECT_TRUE(Get("after").ok());
}

TEST_F(CheckedServiceTest, RefusesBytesThatAreNoMessage) {
  Start();
  const absl::Status status = CallRaw("/mindforge.v1.WorkerService/GetWorker", "\x0a\x7f cut");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("mindforge.v1.GetWorkerRequest"));
}

TEST_F(CheckedServiceTest, EveryMethodIsChecked) {
  Start();
  const auto* service = v1::WorkerService::service_full_name();
  const auto* descriptor =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
  for (int i = 0; i < descriptor->method_count(); ++i) {
    const std::string method = descriptor->method(i)->name();
    EXPECT_EQ(CallRaw(absl::StrCat("/", service, "/", method), "\xff").code(),
              absl::StatusCode::kInvalidArgument)
        << method;
  }
}

TEST_F(CheckedServiceTest, ARequestHasALimit) {
  Start();
  EXPECT_TRUE(Get(std::string(4'000'000, 'x')).ok());
  const absl::Status large = Get(std::string(4 << 20, 'x'));
  EXPECT_EQ(large.code(), absl::StatusCode::kResourceExhausted) << large;
  EXPECT_EQ(GetReason(large), "REQUEST_TOO_LARGE");
}

TEST_F(CheckedServiceTest, BoundsTheCallsInHand) {
  Start({.calls = 2});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  v1::GetWorkerRequest hold;
  hold.set_worker("hold");
  v1::GetWorkerResponse responses[2];
  Mutex mutex;
  int done = 0;
  for (v1::GetWorkerResponse& response : responses) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    SetDeadline(*contexts.back(), absl::Seconds(60));
    stub_->async()->GetWorker(contexts.back().get(), &hold, &response, [&](grpc::Status) {
      MutexLock lock(mutex);
      ++done;
    });
  }
  ASSERT_TRUE(Eventually([&] { return handlers_.calls() == 2; }));
  const absl::Status full = Get("third");
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_EQ(GetReason(full), "SERVER_BUSY");
  EXPECT_THAT(std::string(full.message()), HasSubstr("2 calls in hand"));
  handlers_.Release();
  EXPECT_TRUE(Eventually([&] { return Get("third").ok(); })) << "their places are free again";
  EXPECT_TRUE(Eventually([&] {
    MutexLock lock(mutex);
    return done == 2;
  }));
}

TEST_F(CheckedServiceTest, BoundsTheBytesInHand) {
  Start({.bytes = 1'000'000});
  EXPECT_TRUE(Get(std::string(900'000, 'x')).ok());
  const absl::Status large = Get(std::string(1'000'001, 'x'));
  EXPECT_EQ(large.code(), absl::StatusCode::kResourceExhausted) << large;
  EXPECT_THAT(std::string(large.message()), HasSubstr("send fewer large requests at once"));
  EXPECT_EQ(handlers_.calls(), 1);
  EXPECT_TRUE(Eventually([&] { return Get(std::string(900'000, 'x')).ok(); }));
}

}  // namespace
}  // namespace mindforge
