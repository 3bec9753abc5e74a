#include "coordinator/rpc/requests.h"

#include <xxhash.h>

#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace mindforge {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

std::string Deterministic(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream out(&stream);
  out.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&out);
  out.Trim();
  return bytes;
}

std::string Digest(const std::string& method, const google::protobuf::Message& body) {
  // The id itself is no part of the body.
  std::unique_ptr<google::protobuf::Message> copy(body.New());
  copy->CopyFrom(body);
  const auto* field = copy->GetDescriptor()->FindFieldByName("request_id");
  if (field != nullptr) copy->GetReflection()->ClearField(copy.get(), field);
  const std::string bytes = absl::StrCat(method, "\n", Deterministic(*copy));
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

absl::Status NotFound(const char* reason, std::string message) {
  return Error(absl::StatusCode::kNotFound, reason, message);
}

}  // namespace

absl::StatusOr<sched::Request> RequestOf(const std::string& method, const std::string& request_id,
                                         const google::protobuf::Message& body) {
  if (request_id.empty()) {
    return InvalidArgument("request_id",
                           "is missing: choose one for each request (a UUID will do) and send it "
                           "again when you repeat that request");
  }
  if (request_id.size() > kMaxRequestIdBytes) {
    return InvalidArgument("request_id", absl::StrCat("has ", request_id.size(),
                                                      " characters, at most ", kMaxRequestIdBytes));
  }
  for (const char c : request_id) {
    if (!absl::ascii_isgraph(c)) {
      return InvalidArgument("request_id", "may hold only printable ASCII without spaces");
    }
  }
  return sched::Request{request_id, Digest(method, body)};
}

absl::Status JobNotFound(const std::string& name_or_id) {
  return NotFound("JOB_NOT_FOUND", absl::StrCat("there is no job with the name or id '", name_or_id,
                                                "': `mindforge job list` shows all"));
}

absl::Status WorkerNotFound(const std::string& name_or_id) {
  return NotFound("WORKER_NOT_FOUND",
                  absl::StrCat("there is no worker with the name or id '", name_or_id,
                               "': `mindforge worker list` shows all"));
}

absl::Status CheckpointNotFound(const std::string& job, int64_t step) {
  return NotFound("CHECKPOINT_NOT_FOUND",
                  absl::StrCat("job ", job, " has no checkpoint of step ", step,
                               ": `mindforge checkpoint list ", job, "` shows all"));
}

absl::Status DeploymentNotFound(const std::string& name) {
  return NotFound("DEPLOYMENT_NOT_FOUND", absl::StrCat("there is no deployment '", name,
                                                       "': `mindforge model list` shows all"));
}

absl::Status StoreReadsBusy() {
  return Error(absl::StatusCode::kResourceExhausted, "STORE_BUSY",
               "too many calls wait for the coordinator's disk: try again in a moment");
}

grpc::ServerUnaryReactor* Mutate(grpc::CallbackServerContext* context, Core& core,
                                 const absl::StatusOr<sched::Event>& event, FillOutcome fill) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  if (!event.ok()) {
    reactor->Finish(ToGrpcStatus(event.status()));
    return reactor;
  }
  core.Do(*event, [reactor, fill = std::move(fill)](const sched::Outcome& outcome,
                                                    const sched::State& state) {
    return Finish(reactor, outcome.status.ok() ? fill(outcome, state) : outcome.status);
  });
  return reactor;
}

grpc::ServerUnaryReactor* Look(grpc::CallbackServerContext* context, Core& core, FillState fill) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  core.View([reactor, fill = std::move(fill)](const sched::State& state, const sched::Now&) {
    return Finish(reactor, fill(state));
  });
  return reactor;
}

}  // namespace mindforge
