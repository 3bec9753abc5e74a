#include "coordinator/gateway/inference_agent_service.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/parked_call.h"
#include "grpcpp/alarm.h"

namespace mindforge {
namespace {

using Request = v1::InferenceAgentServiceSynchronizeRequest;
using Response = v1::InferenceAgentServiceSynchronizeResponse;

absl::Status Check(const Request& request) {
  std::vector<FieldViolation> problems;
  if (request.worker_id().empty()) {
    problems.push_back({"worker_id", "is empty; every inference worker has one in its data_dir"});
  }
  if (const auto address = ParseHostPort(request.address()); !address.ok()) {
    problems.push_back({"address", std::string(address.status().message())});
  }
  return problems.empty() ? absl::OkStatus() : InvalidArgument(problems);
}

void Fill(const DesiredModelState& state, Response* response) {
  if (state.model.has_value()) *response->mutable_model() = *state.model;
  response->set_desired_version(state.version);
  response->mutable_call_again();  // Zero: at once, and be parked again.
}

absl::Status Stopping() {
  return Error(absl::StatusCode::kUnavailable, "DRAINING",
               "the coordinator is stopping; call again when it is back");
}

}  // namespace

// One Synchronize: what happens becomes an event of a ParkedCall, which says who answers. The
// request is read before the call is parked, never after. gRPC's side keeps `self_` until OnDone.
class InferenceAgentService::Call : public grpc::ServerUnaryReactor,
                                    public std::enable_shared_from_this<Call> {
 public:
  Call(InferenceAgentService& service, const Request& request, Response* response)
      : service_(service),
        id_(request.worker_id()),
        incarnation_(request.incarnation()),
        address_(request.address()),
        response_(response),
        machine_(request.known_version(), request.no_park()) {}

  void Open() { self_ = shared_from_this(); }

  const WorkerId& id() const { return id_; }
  const std::string& incarnation() const { return incarnation_; }
  const std::string& address() const { return address_; }

  // The report is in the registry.
  void Reported(const DesiredModelState& state) {
    Drive([&](ParkedCall& call) { return call.Reported(state.version); });
  }
  // The desired state may be another one.
  void LookAgain() {
    const int64_t version = service_.desired_.Desired(id_).version;
    Drive([version](ParkedCall& call) { return call.Seen(version); });
  }
  void NewerCall() {
    Drive([](ParkedCall& call) { return call.NewerCall(); });
  }
  void Refuse(const absl::Status& status) {
    Drive([](ParkedCall& call) { return call.Refused(); }, status);
  }

  void StartTimer(absl::Duration park) {
    const std::weak_ptr<Call> weak = weak_from_this();
    MutexLock lock(mutex_);
    if (machine_.over()) return;
    // Weak: the alarm keeps its callback for as long as it lives, and lives in the call.
    alarm_.Set(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(park),
               [weak](bool expired) {
                 const std::shared_ptr<Call> self = weak.lock();
                 if (!expired || self == nullptr) return;
                 self->Drive([](ParkedCall& call) { return call.ParkOver(); });
               });
  }

  void OnCancel() override {
    Drive([](ParkedCall& call) { return call.CallerGone(); },
          absl::CancelledError("the inference worker went away"));
  }
  void OnDone() override {
    std::shared_ptr<Call> self = std::move(self_);  // The last reference may be this one.
    MutexLock lock(mutex_);
    alarm_.Cancel();
  }

 private:
  // Tells the machine of an event and does what it says. Until the call is over, the server and
  // with it the service are still there.
  template <typename Event>
  void Drive(Event event, const absl::Status& refusal = absl::OkStatus()) {
    const std::shared_ptr<Call> self = shared_from_this();
    ParkedCall::Act act;
    {
      MutexLock lock(mutex_);
      act = event(machine_);
    }
    switch (act) {
      case ParkedCall::Act::kNothing:
        return;
      case ParkedCall::Act::kPark:
        service_.Park(self);
        // Whoever ended it before it was parked found nothing to forget.
        if (IsOver()) service_.Forget(*this);
        return;
      case ParkedCall::Act::kAnswer:
        service_.Forget(*this);
        Fill(service_.desired_.Desired(id_), response_);
        return Finish(grpc::Status::OK);
      case ParkedCall::Act::kRefuse:
        service_.Forget(*this);
        return Finish(ToGrpcStatus(refusal));
    }
  }

  bool IsOver() {
    MutexLock lock(mutex_);
    return machine_.over();
  }

  InferenceAgentService& service_;
  const WorkerId id_;
  const std::string incarnation_;
  const std::string address_;
  Response* const response_;
  grpc::Alarm alarm_;
  Mutex mutex_;
  ParkedCall machine_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Call> self_;
};

InferenceAgentService::InferenceAgentService(InferenceRegistry& registry, DesiredModels& desired,
                                             absl::Duration park)
    : registry_(registry), desired_(desired), park_(park) {
  desired_.OnChange([this] { Wake(); });
}

InferenceAgentService::~InferenceAgentService() { Shutdown(); }

grpc::ServerUnaryReactor* InferenceAgentService::Synchronize(grpc::CallbackServerContext* context,
                                                             const Request* request,
                                                             Response* response) {
  auto call = std::make_shared<Call>(*this, *request, response);
  call->Open();
  if (const absl::Status status = Check(*request); !status.ok()) {
    call->Refuse(status);
    return call.get();
  }
  if (const absl::Status status = CheckUnique(*call); !status.ok()) {
    call->Refuse(status);
    return call.get();
  }
  EndOlder(call->id());
  call->Reported(desired_.Report(registry_.Report(*request)));
  return call.get();
}

// A dead predecessor's call went with its connection, and no two processes listen on one address.
absl::Status InferenceAgentService::CheckUnique(const Call& call) {
  MutexLock lock(mutex_);
  const auto it = parked_.find(call.id());
  if (it == parked_.end() || it->second->incarnation() == call.incarnation() ||
      it->second->address() == call.address()) {
    return absl::OkStatus();
  }
  const absl::Status taken = Error(
      absl::StatusCode::kAlreadyExists, "WORKER_ID_TAKEN",
      absl::StrCat("inference worker id ", call.id().value(), " is that of another process, at ",
                   it->second->address(), ", which is connected; the one at ", call.address(),
                   " needs a data_dir (--data-dir) of its own, not a copy"));
  // The newcomer asks again and again.
  if (std::exchange(last_refused_, call.incarnation()) != call.incarnation()) {
    MF_LOG(WARNING) << taken.message();
  }
  return taken;
}

void InferenceAgentService::EndOlder(const WorkerId& id) {
  std::shared_ptr<Call> older;
  {
    MutexLock lock(mutex_);
    const auto it = parked_.find(id);
    if (it == parked_.end()) return;
    older = std::move(it->second);
    parked_.erase(it);
  }
  older->NewerCall();
}

void InferenceAgentService::Park(const std::shared_ptr<Call>& call) {
  std::shared_ptr<Call> older;
  bool parked = false;
  {
    MutexLock lock(mutex_);
    if (!shut_down_) {
      older = std::exchange(parked_[call->id()], call);
      parked = true;
    }
  }
  if (!parked) return call->Refuse(Stopping());
  if (older != nullptr) older->NewerCall();
  call->StartTimer(park_);
  call->LookAgain();  // a change between the report and the parking woke nobody
}

void InferenceAgentService::Forget(const Call& call) {
  std::shared_ptr<Call> forgotten;  // goes without the lock
  MutexLock lock(mutex_);
  const auto it = parked_.find(call.id());
  if (it == parked_.end() || it->second.get() != &call) return;
  forgotten = std::move(it->second);
  parked_.erase(it);
}

void InferenceAgentService::Wake() {
  std::vector<std::shared_ptr<Call>> calls;
  {
    MutexLock lock(mutex_);
    for (const auto& [id, call] : parked_) calls.push_back(call);
  }
  for (const std::shared_ptr<Call>& call : calls) call->LookAgain();
}

void InferenceAgentService::Shutdown() {
  std::map<WorkerId, std::shared_ptr<Call>> calls;
  {
    MutexLock lock(mutex_);
    if (std::exchange(shut_down_, true)) return;
    calls.swap(parked_);
  }
  desired_.OnChange(nullptr);
  for (const auto& [id, call] : calls) call->Refuse(Stopping());
}

}  // namespace mindforge
