#include "worker/agent/agent.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "common/error_details.h"
#include "common/grpc_client.h"
#include "common/grpc_status.h"
#include "common/logging.h"
#include "common/random_id.h"
#include "common/version.h"

namespace mindforge {
namespace {

// Longer than the coordinator ever parks a call.
constexpr absl::Duration kCallDeadline = absl::Seconds(30);
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(50);
constexpr absl::Duration kLongestBackoff = absl::Seconds(1);
// Between two calls, so that a coordinator that answers at once for ever is not flooded.
constexpr absl::Duration kLeastPause = absl::Milliseconds(2);
// Longer than it takes to read a checkpoint of a few GB from a storage that answers.
constexpr absl::Duration kAdoptionWait = absl::Seconds(5);
// A call and its successor: the coordinator answers the older at once when the newer arrives.
constexpr size_t kMostInFlight = 2;

absl::Duration Backoff(int failures) {
  const absl::Duration full =
      std::min(kLongestBackoff, kFirstBackoff * (1 << std::min(failures - 1, 10)));
  // Jitter: a thousand agents do not come back in step.
  absl::InsecureBitGen random;
  return full * absl::Uniform(random, 0.5, 1.0);
}

// It is there and says no: what it says is to be mended, here or there.
bool IsRefusal(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsUnauthenticated(status) ||
         absl::IsPermissionDenied(status) || absl::IsFailedPrecondition(status) ||
         absl::IsAlreadyExists(status) || absl::IsResourceExhausted(status);
}

// Two agents with one id: only the coordinator knows which came last, and it may forget. This one
// must not be there to be taken for the newer one then.
bool IsReplaced(const absl::Status& status) {
  return absl::IsAborted(status) && GetReason(status) == "AGENT_REPLACED";
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace

// One Synchronize under way.
struct Agent::Call {
  int64_t number = 0;
  int64_t events = 0;  // changes that the request tells of
  absl::Duration started;
  bool done = false;
  grpc::ClientContext context;
  v1::SynchronizeRequest request;
  v1::SynchronizeResponse response;
  absl::Status status;
};

Agent::Agent(const AgentOptions& options, const std::vector<v1::Device>& devices,
             Identity& identity, MetricsRegistry& registry, std::shared_ptr<grpc::Channel> channel)
    : options_(options),
      incarnation_(RandomUuid()),
      identity_(identity),
      stub_(v1::WorkerAgentService::NewStub(channel)),
      metrics_(registry),
      supervisor_(options_, devices, identity, metrics_,
                  [this](Urgency urgency) { Notify(urgency); }),
      caretaker_([this] { Notify(Urgency::kAtOnce); }, supervisor_) {}

Agent::~Agent() {
  MutexLock lock(mutex_);
  for (const auto& call : in_flight_) call->context.TryCancel();
  for (const auto& call : in_flight_) {
    while (!call->done) changed_.Wait(mutex_);
  }
}

void Agent::RequestDrain() {
  MutexLock lock(mutex_);
  drain_requested_ = urgent_ = event_ = true;
  ++events_;
  changed_.SignalAll();
}

void Agent::Notify(Urgency urgency) {
  MutexLock lock(mutex_);
  ++events_;
  event_ = true;
  (urgency == Urgency::kAtOnce ? urgent_ : dirty_) = true;
  changed_.SignalAll();
}

// What trainers had finished when the agent before this one died is best told before the
// coordinator starts their job again; but a storage that hangs must not keep this worker from it.
void Agent::Adopt() {
  caretaker_.Adopt(supervisor_.JobsBefore());
  if (!caretaker_.WaitUntilAdopted(kAdoptionWait)) {
    MF_LOG(WARNING) << "the search for checkpoints of jobs that ran here before goes on for more "
                    << "than " << absl::FormatDuration(kAdoptionWait)
                    << ": what it finds is told later";
  }
}

absl::Status Agent::Run() {
  Adopt();
  while (replaced_.ok() && !Drained()) {
    supervisor_.Apply(desired_, drain_started_ != absl::InfiniteDuration());
    StartCallIfDue();
    WaitForEvent();
    CollectCalls();
  }
  supervisor_.KillAll();
  return replaced_;
}

bool Agent::IsCallDue(absl::Duration now) const {
  if (in_flight_.empty()) return now >= next_call_;
  if (in_flight_.size() >= kMostInFlight) return false;
  return urgent_ || (dirty_ && now >= in_flight_.front()->started + options_.flush_interval);
}

absl::Duration Agent::NextDeadline() const {
  absl::Duration deadline = absl::InfiniteDuration();
  if (in_flight_.empty()) {
    deadline = next_call_;
  } else if (in_flight_.size() < kMostInFlight && dirty_) {
    deadline = in_flight_.front()->started + options_.flush_interval;
  }
  if (drain_started_ == absl::InfiniteDuration()) return deadline;
  if (trainers_gone_ != absl::InfiniteDuration()) {
    return std::min(deadline, trainers_gone_ + options_.farewell);
  }
  return std::min(deadline,
                  drain_started_ + (stop_ordered_ ? options_.drain_timeout : options_.drain_grace));
}

void Agent::FillRequest(v1::SynchronizeRequest* request) {
  request->set_worker_id(identity_.worker_id());
  request->set_name(options_.name);
  request->set_version(kVersion);
  request->set_advertise_host(options_.advertise);
  request->set_incarnation(incarnation_);
  request->set_spool(identity_.spool_file().id());
  request->set_draining(drain_started_ != absl::InfiniteDuration());
  request->set_known_version(desired_version_);
  const bool more = supervisor_.Fill(request);
  // A farewell waits for nothing but its answer.
  request->set_no_park(more || (request->draining() && !supervisor_.AnyRunning()));
  caretaker_.Fill(request);
}

void Agent::StartCallIfDue() {
  auto call = std::make_unique<Call>();
  {
    MutexLock lock(mutex_);
    if (!IsCallDue(clock_.MonotonicNow())) return;
    // Before the request is filled: what happens meanwhile is told by the next one.
    urgent_ = dirty_ = false;
    call->events = events_;
  }
  call->number = ++calls_made_;
  call->request.set_call_number(call->number);
  FillRequest(&call->request);
  call->started = clock_.MonotonicNow();
  SetDeadline(call->context, kCallDeadline);
  Call* const borrowed = call.get();
  {
    MutexLock lock(mutex_);
    in_flight_.push_back(std::move(call));
  }
  stub_->async()->Synchronize(&borrowed->context, &borrowed->request, &borrowed->response,
                              [this, borrowed](const grpc::Status& status) {
                                MutexLock lock(mutex_);
                                borrowed->status = FromGrpcStatus(status);
                                borrowed->done = event_ = true;
                                changed_.SignalAll();
                              });
}

void Agent::WaitForEvent() {
  MutexLock lock(mutex_);
  const absl::Duration left = NextDeadline() - clock_.MonotonicNow();
  changed_.WaitFor(mutex_, left, [&] {
    mutex_.AssertHeld();
    return event_;
  });
  event_ = false;
}

void Agent::CollectCalls() {
  std::vector<std::unique_ptr<Call>> done;
  {
    MutexLock lock(mutex_);
    for (auto& call : in_flight_) {
      if (call->done) done.push_back(std::move(call));
    }
    std::erase(in_flight_, nullptr);
  }
  for (const auto& call : done) Conclude(*call);
}

void Agent::Conclude(const Call& call) {
  if (!call.status.ok()) return Failed(call.status);
  if (failures_in_a_row_ > 0 || calls_made_ == 1) {
    MF_LOG(INFO) << "the coordinator at " << options_.coordinator
                 << (calls_made_ == 1 ? " is reached" : " is back");
  }
  failures_in_a_row_ = 0;
  last_failure_.clear();
  metrics_.SetReachable(true);
  supervisor_.Acknowledge(call.response);
  caretaker_.Delivered(call.request);
  caretaker_.Accept(call.response);
  if (call.number > newest_answered_) {
    newest_answered_ = call.number;
    desired_ = call.response.devices();
    desired_version_ = call.response.desired_version();
  }
  const absl::Duration pause = std::max(kLeastPause, FromProto(call.response.call_again()));
  MutexLock lock(mutex_);
  events_delivered_ = std::max(events_delivered_, call.events);
  const bool more = urgent_ || call.request.no_park();
  next_call_ = clock_.MonotonicNow() + (more ? kLeastPause : pause);
}

void Agent::Failed(const absl::Status& status) {
  if (IsReplaced(status)) {
    replaced_ = status;
    return;
  }
  ++failures_in_a_row_;
  metrics_.SetReachable(false);
  if (const std::string failure = status.ToString(); failure != last_failure_) {
    last_failure_ = failure;
    MF_LOG(WARNING) << "the coordinator at " << options_.coordinator
                    << (IsRefusal(status) ? " refuses this worker's calls" : " does not answer")
                    << ", trying on (trainers go on meanwhile): " << failure;
  }
  // Who would have told of a job's newest checkpoint may be gone when the coordinator is back.
  for (const auto& [job_id, folder] : supervisor_.JobFolders()) caretaker_.Look(job_id, folder);
  MutexLock lock(mutex_);
  next_call_ = clock_.MonotonicNow() + Backoff(failures_in_a_row_);
}

bool Agent::Drained() {
  const absl::Duration now = clock_.MonotonicNow();
  bool told = false;
  {
    MutexLock lock(mutex_);
    if (!drain_requested_) return false;
    told = events_delivered_ == events_;
  }
  if (drain_started_ == absl::InfiniteDuration()) {
    drain_started_ = now;
    MF_LOG(INFO) << "draining: trainers are to write a checkpoint and stop";
  }
  if (supervisor_.AnyRunning()) {
    if (now >= drain_started_ + options_.drain_timeout) {
      MF_LOG(WARNING) << "trainers did not stop within "
                      << absl::FormatDuration(options_.drain_timeout) << "; they are killed";
      supervisor_.KillAll();
    } else if (!stop_ordered_ && now >= drain_started_ + options_.drain_grace) {
      stop_ordered_ = true;
      supervisor_.StopAll();
    }
    return false;
  }
  trainers_gone_ = std::min(trainers_gone_, now);
  // With a coordinator that is away only what is still to be told is worth waiting.
  if ((told || failures_in_a_row_ > 0) && supervisor_.SpoolEmpty()) return true;
  return now >= trainers_gone_ + options_.farewell;
}

}  // namespace mindforge
