// An inference worker for the gateway's tests: a gRPC server on port 0 whose answers a test
// scripts. It says the tokens 100, 101, … and can refuse, stall or die on the way.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/check.h"
#include "common/grpc_server.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge {

class FakeWorker : public v1::InferenceService::Service {
 public:
  struct Behaviour {
    absl::Status refuse;     // before anything is delivered
    int64_t die_after = -1;  // tokens; then `death`
    // As when its process is killed.
    absl::Status death = absl::UnavailableError("Socket closed");
    int64_t stall_after = -1;  // tokens; then waits until the call is cancelled
    std::string weights_version = "v1";
    size_t padding = 0;  // bytes of each delta's text besides
    std::string numerics_id = "n1";
  };

  explicit FakeWorker(std::string name) : name_(std::move(name)) {
    auto server = GrpcServer::Start({.listen = "127.0.0.1:0"}, {this});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
  }

  const std::string& name() const { return name_; }
  const std::string& address() const { return server_->address(); }
  void Set(Behaviour behaviour) {
    MutexLock lock(mutex_);
    behaviour_ = std::move(behaviour);
  }
  // Stops listening: connections are refused.
  void Kill() { server_.reset(); }

  std::vector<v1::GenerateRequest> requests() const {
    MutexLock lock(mutex_);
    return requests_;
  }
  int64_t cancelled() const {
    MutexLock lock(mutex_);
    return cancelled_;
  }
  // The time that the caller gave the newest call.
  absl::Duration newest_timeout() const {
    MutexLock lock(mutex_);
    return newest_timeout_;
  }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    const Behaviour behaviour = Note(*context, *request);
    if (!behaviour.refuse.ok()) return ToGrpcStatus(behaviour.refuse);
    v1::GenerateResponse event;
    event.mutable_started()->set_seed(request->sampling().has_seed() ? request->sampling().seed()
                                                                     : 77);
    event.mutable_started()->set_weights_version(behaviour.weights_version);
    event.mutable_started()->set_numerics_id(behaviour.numerics_id);
    event.mutable_started()->set_worker_id(name_);
    writer->Write(event);
    const int64_t count = request->stopping().max_new_tokens();
    for (int64_t i = request->resume_token_ids_size(); i < count; ++i) {
      if (i == behaviour.die_after) {
        return ToGrpcStatus(behaviour.death);
      }
      if (i == behaviour.stall_after) return AwaitCancel(*context);
      v1::GenerateResponse delta;
      if (request->output().token_ids() || !request->output().has_token_ids()) {
        delta.mutable_delta()->add_token_ids(static_cast<int32_t>(100 + i));
      }
      delta.mutable_delta()->set_text(absl::StrCat(i, " ", std::string(behaviour.padding, '-')));
      if (!writer->Write(delta)) return grpc::Status::CANCELLED;
    }
    v1::GenerateResponse finished;
    finished.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
    finished.mutable_finished()->mutable_usage()->set_output_tokens(
        static_cast<int32_t>(std::max<int64_t>(count - request->resume_token_ids_size(), 0)));
    finished.mutable_finished()->mutable_timings()->mutable_queued()->set_seconds(7);
    writer->Write(finished);
    return grpc::Status::OK;
  }

  grpc::Status GetModelInfo(grpc::ServerContext* context, const v1::GetModelInfoRequest* request,
                            v1::GetModelInfoResponse* response) override {
    MutexLock lock(mutex_);
    response->set_model(name_);
    return ToGrpcStatus(behaviour_.refuse);
  }

 private:
  Behaviour Note(const grpc::ServerContext& context, const v1::GenerateRequest& request) {
    MutexLock lock(mutex_);
    requests_.push_back(request);
    newest_timeout_ = absl::FromChrono(context.deadline() - std::chrono::system_clock::now());
    return behaviour_;
  }
  grpc::Status AwaitCancel(const grpc::ServerContext& context) {
    MutexLock lock(mutex_);
    while (!context.IsCancelled()) changed_.WaitFor(mutex_, absl::Milliseconds(1));
    ++cancelled_;
    return grpc::Status::CANCELLED;
  }

  const std::string name_;
  mutable Mutex mutex_;
  CondVar changed_;
  Behaviour behaviour_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::GenerateRequest> requests_ ABSL_GUARDED_BY(mutex_);
  int64_t cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration newest_timeout_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace mindforge
