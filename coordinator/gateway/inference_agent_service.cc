#include "coordinator/gateway/inference_agent_service.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/logging.h"
#include "common/net.h"
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

// One Synchronize. Answered once, by whoever comes first: a new desired state, the worker's next
// call, the end of the park or the caller's going away. gRPC's side keeps `self_` until OnDone.
class InferenceAgentService::Call : public grpc::ServerUnaryReactor {
 public:
  Call(InferenceAgentService& service, const Request& request, Response* response)
      : service_(service),
        id_(request.worker_id()),
        incarnation_(request.incarnation()),
        address_(request.address()),
        response_(response) {}

  void Hold(std::shared_ptr<Call> self) { self_ = std::move(self); }

  void StartTimer(absl::Duration park, std::weak_ptr<Call> weak) {
    MutexLock lock(mutex_);
    if (answered_) return;
    // Weak: the alarm keeps its callback for as long as it lives, and lives in the call.
    alarm_.Set(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(park),
               [weak = std::move(weak)](bool expired) {
                 const std::shared_ptr<Call> self = weak.lock();
                 // Unanswered, so the server and with it the service are still there.
                 if (expired && self != nullptr && self->Claim()) self->ParkEnded();
               });
  }

  void Answer(const DesiredModelState& state) {
    if (!Claim()) return;
    Fill(state, response_);
    Finish(grpc::Status::OK);
  }
  void Refuse(const absl::Status& status) {
    if (Claim()) Finish(ToGrpcStatus(status));
  }

  const WorkerId& id() const { return id_; }
  const std::string& incarnation() const { return incarnation_; }
  const std::string& address() const { return address_; }
  void set_version(int64_t version) { version_ = version; }
  int64_t version() const { return version_; }

  void OnCancel() override {
    service_.Forget(id_, this);
    Refuse(absl::CancelledError("the inference worker went away"));
  }
  void OnDone() override {
    std::shared_ptr<Call> self = std::move(self_);  // The last reference may be this one.
    MutexLock lock(mutex_);
    alarm_.Cancel();
  }

 private:
  void ParkEnded() {
    service_.Forget(id_, this);
    Fill(service_.desired_.Desired(id_), response_);
    Finish(grpc::Status::OK);
  }
  bool Claim() {
    MutexLock lock(mutex_);
    return !std::exchange(answered_, true);
  }

  InferenceAgentService& service_;
  const WorkerId id_;
  const std::string incarnation_;
  const std::string address_;
  Response* const response_;
  int64_t version_ = 0;
  grpc::Alarm alarm_;
  Mutex mutex_;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
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
  call->Hold(call);
  if (const absl::Status status = Check(*request); !status.ok()) {
    call->Refuse(status);
    return call.get();
  }
  if (const absl::Status status = CheckUnique(*call); !status.ok()) {
    call->Refuse(status);
    return call.get();
  }
  const DesiredModelState state = desired_.Report(registry_.Report(*request));
  if (request->no_park() || request->known_version() != state.version) {
    Forget(call->id(), nullptr);
    call->Answer(state);
  } else {
    Park(call, call->id(), state.version);
  }
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

void InferenceAgentService::Park(const std::shared_ptr<Call>& call, const WorkerId& id,
                                 int64_t version) {
  call->set_version(version);
  std::shared_ptr<Call> older;
  bool parked = false;
  {
    MutexLock lock(mutex_);
    if (!shut_down_) {
      older = std::exchange(parked_[id], call);
      parked = true;
    }
  }
  if (!parked) {
    call->Refuse(Stopping());
    return;
  }
  const DesiredModelState now = desired_.Desired(id);
  if (older != nullptr) older->Answer(now);
  // A change between the report and the parking woke nobody.
  if (now.version != version) {
    Forget(id, call.get());
    call->Answer(now);
    return;
  }
  call->StartTimer(park_, call);
}

void InferenceAgentService::Forget(const WorkerId& id, const Call* call) {
  std::shared_ptr<Call> older;
  {
    MutexLock lock(mutex_);
    const auto it = parked_.find(id);
    if (it == parked_.end() || (call != nullptr && it->second.get() != call)) return;
    older = std::move(it->second);
    parked_.erase(it);
  }
  if (call == nullptr) older->Answer(desired_.Desired(id));
}

void InferenceAgentService::Wake() {
  std::vector<std::shared_ptr<Call>> calls;
  {
    MutexLock lock(mutex_);
    for (const auto& [id, call] : parked_) calls.push_back(call);
  }
  for (const std::shared_ptr<Call>& call : calls) {
    const DesiredModelState state = desired_.Desired(call->id());
    if (state.version == call->version()) continue;
    Forget(call->id(), call.get());
    call->Answer(state);
  }
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
