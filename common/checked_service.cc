#include "common/checked_service.h"

#include <functional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/grpc_status.h"
#include "common/handover.h"
#include "common/request_text.h"
#include "google/protobuf/descriptor.h"
#include "google/rpc/status.pb.h"
#include "grpc/byte_buffer.h"
#include "grpc/byte_buffer_reader.h"
#include "grpc/grpc.h"
#include "grpc/slice.h"
#include "grpcpp/impl/codegen/server_callback_handlers.h"
#include "grpcpp/impl/rpc_service_method.h"
#include "grpcpp/support/byte_buffer.h"

namespace mindforge {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::MethodDescriptor;
using grpc::internal::MethodHandler;
using grpc::internal::RpcMethod;

// What Deserialize leaves for RunHandler, on the memory of the call.
struct CallRecord {
  void* handler_data = nullptr;
  size_t bytes = 0;
  bool refused = false;
};

// Ends a call with the google.rpc.Status that its "request" holds.
grpc::ServerUnaryReactor* EndWith(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* serialized, grpc::ByteBuffer*) {
  grpc::Slice bytes;
  google::rpc::Status status;
  const bool read = serialized->DumpToSingleSlice(&bytes).ok() &&
                    status.ParseFromArray(bytes.begin(), static_cast<int>(bytes.size()));
  MF_CHECK(read) << "Refuse has just written it";
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status(static_cast<grpc::StatusCode>(status.code()), status.message(),
                               status.SerializeAsString()));
  return reactor;
}

absl::Status CheckRequest(const Descriptor& type, grpc_byte_buffer* request) {
  grpc_byte_buffer_reader reader;
  if (grpc_byte_buffer_reader_init(&reader, request) == 0) {
    return InvalidArgument("", "the request cannot be decompressed");
  }
  // It comes in parts when it is large; strings may lie across their borders.
  const grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
  grpc_byte_buffer_reader_destroy(&reader);
  const auto bad = FindBadText(
      type, {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(whole)), GRPC_SLICE_LENGTH(whole)});
  grpc_slice_unref(whole);
  return bad ? InvalidArgument({*bad}) : absl::OkStatus();
}

class CheckedHandler : public MethodHandler {
 public:
  CheckedHandler(const Descriptor& type, MethodHandler& inner, size_t max_bytes,
                 std::shared_ptr<CallBudget> budget)
      : type_(type), inner_(inner), max_bytes_(max_bytes), budget_(std::move(budget)) {}

  void* Deserialize(grpc_call* call, grpc_byte_buffer* request, grpc::Status* status,
                    void** handler_data) final {
    auto* const record = new (grpc_call_arena_alloc(call, sizeof(CallRecord))) CallRecord;
    *handler_data = record;
    // Null: the client went away, or half-closed, before its message.
    const size_t bytes = request == nullptr ? 0 : grpc_byte_buffer_length(request);
    void* message = nullptr;
    absl::Status fit = request == nullptr   ? NoMessage()
                       : bytes > max_bytes_ ? TooLarge(bytes)
                                            : budget_->Admit(bytes);
    if (fit.ok()) {
      record->bytes = bytes;
      fit = CheckRequest(type_, request);
      if (!fit.ok()) budget_->Done(bytes);
    }
    if (fit.ok()) {
      message = inner_.Deserialize(call, request, status, &record->handler_data);
    } else {
      grpc_byte_buffer_destroy(request);
      record->refused = true;
      Refuse(call, fit, status, &record->handler_data);
    }
    Give(record);
    return message;
  }

  void RunHandler(const HandlerParameter& param) final {
    const auto* const record = static_cast<const CallRecord*>(param.internal_data);
    Take(record);
    if (record->refused) {
      refusal_.RunHandler(HandlerParameter(param.call, param.server_context, param.request,
                                           param.status, record->handler_data,
                                           param.call_requester));
      return;
    }
    // gRPC calls it as the last thing that it does with a call.
    auto ended = [budget = budget_, bytes = record->bytes, then = param.call_requester] {
      budget->Done(bytes);
      then();
    };
    inner_.RunHandler(HandlerParameter(param.call, param.server_context, param.request,
                                       param.status, record->handler_data, std::move(ended)));
  }

 private:
  static absl::Status NoMessage() {
    return InvalidArgument("",
                           "the call holds no request message: send one, if need be an empty one");
  }
  absl::Status TooLarge(size_t bytes) const {
    return Error(absl::StatusCode::kResourceExhausted, "REQUEST_TOO_LARGE",
                 absl::StrCat("the request has ", bytes, " bytes, and a ", type_.name(),
                              " may have at most ", max_bytes_, ": send less at once"));
  }

  void Refuse(grpc_call* call, const absl::Status& why, grpc::Status* status, void** handler_data) {
    const std::string details = ToGrpcStatus(why).error_details();
    grpc_slice slice = grpc_slice_from_copied_buffer(details.data(), details.size());
    grpc_byte_buffer* const buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    refusal_.Deserialize(call, buffer, status, handler_data);
  }

  const Descriptor& type_;
  MethodHandler& inner_;
  const size_t max_bytes_;
  const std::shared_ptr<CallBudget> budget_;
  grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer> refusal_{EndWith};
};

// Reaches the handlers of a service, which are protected members of its base.
struct Reach : public grpc::Service {
  static MethodHandler& HandlerOf(grpc::Service& service, int index) {
    return *(service.*&Reach::GetHandler)(index);
  }
};

}  // namespace

CheckedService::CheckedService(const std::string& full_name, grpc::Service& inner,
                               size_t max_request_bytes, std::shared_ptr<CallBudget> budget) {
  const auto* const service =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(full_name);
  MF_CHECK(service != nullptr) << full_name << " is a service that this program is built with";
  MF_CHECK(!inner.has_synchronous_methods()) << full_name << " is served on the callback API";
  for (int i = 0; i < service->method_count(); ++i) {
    const MethodDescriptor& method = *service->method(i);
    MF_CHECK(!method.client_streaming()) << method.full_name() << ": a request is one message";
    names_.push_back(
        std::make_unique<std::string>(absl::StrCat("/", full_name, "/", method.name())));
    AddMethod(new grpc::internal::RpcServiceMethod(
        names_.back()->c_str(),
        method.server_streaming() ? RpcMethod::SERVER_STREAMING : RpcMethod::NORMAL_RPC, nullptr));
    MarkMethodCallback(i, new CheckedHandler(*method.input_type(), Reach::HandlerOf(inner, i),
                                             max_request_bytes, budget));
  }
}

}  // namespace mindforge
