// A unary call forwarded to an inference worker, with the same tries as a stream that has delivered
// nothing.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "common/grpc_status.h"
#include "common/mutex.h"
#include "coordinator/gateway/inference_pool.h"
#include "coordinator/gateway/worker_failure.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace mindforge {

// A reactor that owns itself: deleted when gRPC is done with the caller. `pool` outlives it;
// request and response are gRPC's and live until then.
template <typename Request, typename Response>
class UnaryForward : public grpc::ServerUnaryReactor {
 public:
  // Starts the call at one worker's stub.
  using Call = std::function<void(v1::InferenceService::Stub&, grpc::ClientContext*, const Request*,
                                  Response*, std::function<void(grpc::Status)>)>;

  UnaryForward(InferencePool& pool, grpc::CallbackServerContext* context, WorkerWish wish,
               const Request* request, Response* response, Call call)
      : pool_(pool),
        deadline_(WorkerDeadline(context->deadline())),
        request_(request),
        response_(response),
        call_(std::move(call)),
        wish_(std::move(wish)) {
    Launch(std::nullopt);
  }

  void OnCancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    if (client_ != nullptr) client_->TryCancel();
  }
  // gRPC calls it after Finish, and Finish is the last thing that a call's completion does.
  void OnDone() override { delete this; }

 private:
  void Launch(std::optional<grpc::Status> last_failure) {
    absl::StatusOr<std::unique_ptr<WorkerLease>> lease = absl::UnavailableError("");
    if (++attempts_ <= kMaxWorkerAttempts) lease = pool_.Lease(wish_);
    if (!lease.ok()) {
      Finish(last_failure.has_value() ? *last_failure : ToGrpcStatus(lease.status()));
      return;
    }
    if (last_failure.has_value()) pool_.CountRetry();
    lease_ = *std::move(lease);
    wish_.excluded.insert(lease_->worker().id);
    auto client = std::make_shared<grpc::ClientContext>();
    client->set_deadline(deadline_);
    {
      MutexLock lock(mutex_);
      client_ = client;
      if (cancelled_) client->TryCancel();
    }
    response_->Clear();
    // The context stays alive until its completion has run: the callback holds it.
    // Done may end this object before the call that starts it has returned: hence the copies.
    const Call call = call_;
    const std::shared_ptr<v1::InferenceService::Stub> stub = lease_->stub();
    call(*stub, client.get(), request_, response_,
         [this, client](grpc::Status status) { Done(status); });
  }

  void Done(const grpc::Status& status) {
    bool cancelled = false;
    {
      MutexLock lock(mutex_);
      client_.reset();
      cancelled = cancelled_;
    }
    const WorkerFailure failure = ClassifyWorkerFailure(status);
    if (status.ok() || cancelled || failure == WorkerFailure::kFinal) {
      lease_.reset();
      Finish(status);
      return;
    }
    if (failure == WorkerFailure::kUnhealthy) lease_->MarkSuspect(status.error_message());
    const grpc::Status explained = ExplainFailure(lease_->worker(), status);
    lease_.reset();
    Launch(explained);
  }

  InferencePool& pool_;
  const std::chrono::system_clock::time_point deadline_;
  const Request* const request_;
  Response* const response_;
  const Call call_;
  WorkerWish wish_;
  int attempts_ = 0;
  std::unique_ptr<WorkerLease> lease_;
  Mutex mutex_;
  std::shared_ptr<grpc::ClientContext> client_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mindforge
