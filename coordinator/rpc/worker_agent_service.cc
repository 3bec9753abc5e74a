#include "coordinator/rpc/worker_agent_service.h"

#include <chrono>
#include <utility>

#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/requests.h"
#include "grpcpp/alarm.h"

namespace mindforge {

// One Synchronize. Answered once, by whoever comes first: a new desired state, the worker's next
// call, the end of the park, the caller's going away. gRPC's side keeps `self_` until OnDone.
class WorkerAgentService::Call : public grpc::ServerUnaryReactor,
                                 public std::enable_shared_from_this<Call> {
 public:
  Call(WorkerAgentService& service, const v1::SynchronizeRequest* request,
       v1::SynchronizeResponse* response)
      : service_(service), request_(request), response_(response) {}

  void Start() {
    self_ = shared_from_this();
    absl::StatusOr<sched::WorkerReport> report = ToReport(*request_);
    if (!report.ok()) return Refuse(report.status());
    id_ = report->worker.id;
    auto self = shared_from_this();
    service_.core_.Do(
        *std::move(report),
        [self](const sched::Outcome& outcome, const sched::State& state) -> Core::Reply {
          if (!outcome.status.ok()) {
            return [self, status = outcome.status] { self->Refuse(status); };
          }
          const int64_t version = state.workers.at(self->id_).desired_version;
          if (outcome.outdated) return [self] { self->Answer(); };
          return [self, version] { self->Reported(version); };
        });
  }

  // Answers with the desired state as it is now.
  void Answer() {
    if (!Claim()) return;
    auto self = shared_from_this();
    service_.core_.Do(sched::WorkerAnswered{id_},
                      [self](const sched::Outcome& outcome, const sched::State&) -> Core::Reply {
                        if (outcome.status.ok()) return [self] { self->Fill(); };
                        return
                            [self, status = outcome.status] { self->Finish(ToGrpcStatus(status)); };
                      });
  }

  void OnCancel() override {
    service_.Forget(id_, this);
    Refuse(absl::CancelledError("the agent went away"));
  }

  void OnDone() override {
    std::unique_ptr<Subscription> subscription;
    {
      MutexLock lock(mutex_);
      subscription = std::move(subscription_);
      alarm_.Cancel();
    }
    subscription.reset();
    std::shared_ptr<Call> self = std::move(self_);  // the last reference may be this one
  }

 private:
  // The report is durable. Agents that have the newest orders and nothing to hear are parked.
  void Reported(int64_t version) {
    const bool delivers = request_->progress_size() + request_->logs_size() +
                              request_->checkpoints_size() + request_->corruptions_size() +
                              request_->verify_results_size() + request_->deleted_paths_size() >
                          0;
    if (request_->no_park() || request_->draining() || delivers ||
        version != request_->known_version()) {
      return Answer();
    }
    Wait();
  }

  void Wait() {
    auto self = shared_from_this();
    if (!service_.Park(id_, self)) return Answer();
    const std::weak_ptr<Call> weak = self;
    auto subscription = service_.core_.Watch(id_, [weak] {
      if (auto call = weak.lock()) call->Changed();
    });
    if (subscription == nullptr) return Answer();
    {
      MutexLock lock(mutex_);
      subscription_ = std::move(subscription);
      if (answered_) return;
      alarm_.Set(
          std::chrono::system_clock::now() + absl::ToChronoMicroseconds(service_.park_),
          // Weak: the alarm keeps its callback for as long as it lives, and lives in the call.
          [weak](bool expired) {
            auto call = weak.lock();
            if (expired && call != nullptr) call->Answer();
          });
    }
    Changed();  // it may have changed before the subscription
  }

  // Answers when the desired state is not the one that the agent knows.
  void Changed() {
    auto self = shared_from_this();
    service_.core_.View([self](const sched::State& state, const sched::Now&) -> Core::Reply {
      const auto worker = state.workers.find(self->id_);
      if (worker != state.workers.end() &&
          worker->second.desired_version == self->request_->known_version()) {
        return [] {};
      }
      return [self] { self->Answer(); };
    });
  }

  void Fill() {
    auto self = shared_from_this();
    service_.core_.View([self](const sched::State& state, const sched::Now& now) {
      const auto worker = state.workers.find(self->id_);
      if (worker != state.workers.end()) FillDesired(state, worker->second, now, self->response_);
      return [self] { self->Finish(grpc::Status::OK); };
    });
  }

  void Refuse(const absl::Status& status) {
    if (Claim()) Finish(ToGrpcStatus(status));
  }

  // True for the first who wants to answer.
  bool Claim() {
    {
      MutexLock lock(mutex_);
      if (std::exchange(answered_, true)) return false;
      alarm_.Cancel();
    }
    service_.Forget(id_, this);
    return true;
  }

  WorkerAgentService& service_;
  const v1::SynchronizeRequest* const request_;
  v1::SynchronizeResponse* const response_;
  WorkerId id_;
  std::shared_ptr<Call> self_;
  Mutex mutex_;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Subscription> subscription_ ABSL_GUARDED_BY(mutex_);
  grpc::Alarm alarm_;  // ends the park
};

grpc::ServerUnaryReactor* WorkerAgentService::Synchronize(grpc::CallbackServerContext* context,
                                                          const v1::SynchronizeRequest* request,
                                                          v1::SynchronizeResponse* response) {
  auto call = std::make_shared<Call>(*this, request, response);
  call->Start();
  return call.get();
}

bool WorkerAgentService::Park(const WorkerId& id, const std::shared_ptr<Call>& call) {
  std::shared_ptr<Call> older;
  {
    MutexLock lock(mutex_);
    if (shut_down_) return false;
    older = std::exchange(parked_[id], call);
  }
  if (older != nullptr) older->Answer();
  return true;
}

void WorkerAgentService::Forget(const WorkerId& id, const Call* call) {
  std::shared_ptr<Call> forgotten;  // goes without the lock
  MutexLock lock(mutex_);
  const auto it = parked_.find(id);
  if (it == parked_.end() || it->second.get() != call) return;
  forgotten = std::move(it->second);
  parked_.erase(it);
}

void WorkerAgentService::Shutdown() {
  std::map<WorkerId, std::shared_ptr<Call>> parked;
  {
    MutexLock lock(mutex_);
    shut_down_ = true;
    parked = parked_;
  }
  for (const auto& [id, call] : parked) call->Answer();
}

}  // namespace mindforge
