#include "coordinator/rpc/worker_agent_service.h"

#include <chrono>
#include <utility>

#include "common/parked_call.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/requests.h"
#include "grpcpp/alarm.h"

namespace mindforge {

namespace {

// Whether the agent is to hear at once that what it delivered has arrived.
bool Delivers(const v1::SynchronizeRequest& request) {
  return request.progress_size() + request.logs_size() + request.checkpoints_size() +
             request.corruptions_size() + request.verify_results_size() +
             request.deleted_paths_size() >
         0;
}

}  // namespace

// One Synchronize: gRPC's and the shell's callbacks become events of a ParkedCall, which says who
// answers. The request is read by Start alone; the response is filled by who answers. gRPC's side
// keeps `self_` until OnDone.
class WorkerAgentService::Call : public grpc::ServerUnaryReactor,
                                 public std::enable_shared_from_this<Call> {
 public:
  Call(WorkerAgentService& service, const v1::SynchronizeRequest& request,
       v1::SynchronizeResponse* response)
      : service_(service),
        response_(response),
        machine_(request.known_version(),
                 request.no_park() || request.draining() || Delivers(request)) {}

  void Start(const v1::SynchronizeRequest& request) {
    self_ = shared_from_this();
    absl::StatusOr<sched::WorkerReport> report = ToReport(request);
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
          return [self, version, outdated = outcome.outdated] {
            if (outdated) self->Hurry();
            self->Drive([version](ParkedCall& call) { return call.Reported(version); });
          };
        });
  }

  // Answers with the desired state as it is now, once the report is durable.
  void Hurry() {
    Drive([](ParkedCall& call) { return call.Stopping(); });
  }

  void OnCancel() override {
    Drive([](ParkedCall& call) { return call.CallerGone(); },
          absl::CancelledError("the agent went away"));
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
  void Refuse(const absl::Status& status) {
    Drive([](ParkedCall& call) { return call.Refused(); }, status);
  }

  // Tells the machine of an event and does what it says.
  template <typename Event>
  void Drive(Event event, const absl::Status& refusal = absl::OkStatus()) {
    ParkedCall::Act act;
    {
      MutexLock lock(mutex_);
      act = event(machine_);
      if (machine_.over()) alarm_.Cancel();
    }
    switch (act) {
      case ParkedCall::Act::kNothing:
        return;
      case ParkedCall::Act::kPark:
        return Wait();
      case ParkedCall::Act::kAnswer:
        service_.Forget(id_, this);
        return Answer();
      case ParkedCall::Act::kRefuse:
        service_.Forget(id_, this);
        return Finish(ToGrpcStatus(refusal));
    }
  }

  void Wait() {
    auto self = shared_from_this();
    if (!service_.Park(id_, self)) return Hurry();
    // Whoever ended it before it was parked found nothing to forget.
    if (IsOver()) return service_.Forget(id_, this);
    const std::weak_ptr<Call> weak = self;
    auto subscription = service_.core_.Watch(id_, [weak] {
      if (auto call = weak.lock()) call->LookAgain();
    });
    if (subscription == nullptr) return Hurry();
    {
      MutexLock lock(mutex_);
      if (machine_.over()) return;
      subscription_.swap(subscription);
      alarm_.Set(
          std::chrono::system_clock::now() + absl::ToChronoMicroseconds(service_.park_),
          // Weak: the alarm keeps its callback for as long as it lives, and lives in the call.
          [weak](bool expired) {
            auto call = weak.lock();
            if (expired && call != nullptr) {
              call->Drive([](ParkedCall& parked) { return parked.ParkOver(); });
            }
          });
    }
    LookAgain();  // it may have changed before the subscription
  }

  bool IsOver() {
    MutexLock lock(mutex_);
    return machine_.over();
  }

  void LookAgain() {
    auto self = shared_from_this();
    service_.core_.View([self](const sched::State& state, const sched::Now&) -> Core::Reply {
      const auto worker = state.workers.find(self->id_);
      // A worker that was forgotten is told so by an answer; no version is -1.
      const int64_t version = worker == state.workers.end() ? -1 : worker->second.desired_version;
      return [self, version] {
        self->Drive([version](ParkedCall& call) { return call.Seen(version); });
      };
    });
  }

  void Answer() {
    auto self = shared_from_this();
    service_.core_.Do(sched::WorkerAnswered{id_},
                      [self](const sched::Outcome& outcome, const sched::State&) -> Core::Reply {
                        if (outcome.status.ok()) return [self] { self->Fill(); };
                        return
                            [self, status = outcome.status] { self->Finish(ToGrpcStatus(status)); };
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

  WorkerAgentService& service_;
  v1::SynchronizeResponse* const response_;
  WorkerId id_;  // written by Start, before anybody else knows the call
  std::shared_ptr<Call> self_;
  Mutex mutex_;
  ParkedCall machine_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Subscription> subscription_ ABSL_GUARDED_BY(mutex_);
  grpc::Alarm alarm_;  // ends the park
};

grpc::ServerUnaryReactor* WorkerAgentService::Synchronize(grpc::CallbackServerContext* context,
                                                          const v1::SynchronizeRequest* request,
                                                          v1::SynchronizeResponse* response) {
  auto call = std::make_shared<Call>(*this, *request, response);
  call->Start(*request);
  return call.get();
}

bool WorkerAgentService::Park(const WorkerId& id, const std::shared_ptr<Call>& call) {
  std::shared_ptr<Call> older;
  {
    MutexLock lock(mutex_);
    if (shut_down_) return false;
    older = std::exchange(parked_[id], call);
  }
  if (older != nullptr) older->Hurry();
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
  for (const auto& [id, call] : parked) call->Hurry();
}

}  // namespace mindforge
