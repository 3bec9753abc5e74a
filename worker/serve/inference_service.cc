#include "worker/serve/inference_service.h"

#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/serve/field_checker.h"
#include "worker/serve/generate_calls.h"
#include "worker/serve/generation_plan.h"

namespace mindforge {
namespace {

// The most that Tokenize takes at once, and ids that Detokenize does: far more than any context.
constexpr int kMaxTextBytes = 1 << 20;

absl::Time CallDeadline(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

uint64_t DrawSeed() { return absl::HashOf(RandomUuid()); }

grpc::ServerUnaryReactor* End(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// Ends the call with what `work` says, which runs on the pool; at once with an error of `checked`,
// or the pool's.
grpc::ServerUnaryReactor* EndWith(grpc::CallbackServerContext* context, const absl::Status& checked,
                                  EncodePool& pool, size_t bytes,
                                  std::function<absl::Status()> work) {
  if (!checked.ok()) return End(context, checked);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = pool.Run(bytes, [context, reactor, work = std::move(work)] {
    reactor->Finish(ToGrpcStatus(
        context->IsCancelled() ? absl::CancelledError("the caller cancelled") : work()));
  });
  if (!status.ok()) reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status Draining() {
  return Error(absl::StatusCode::kUnavailable, "DRAINING",
               "this inference worker is stopping; send the request to another one");
}

// Before any of it is tokenized.
absl::Status CheckTokenize(const v1::TokenizeRequest& request) {
  FieldChecker check;
  check.UnknownFields(request, "");
  check.Require(request.input_case() != v1::TokenizeRequest::INPUT_NOT_SET, "input",
                "is missing; set text or chat");
  check.Require(!request.has_chat() || !request.add_bos(), "add_bos",
                "is for text; the chat template brings its own special tokens");
  const size_t bytes = request.has_chat() ? request.chat().ByteSizeLong() : request.text().size();
  check.Require(bytes <= kMaxTextBytes, request.has_chat() ? "chat" : "text",
                absl::StrCat("has ", bytes, " bytes; at most ", kMaxTextBytes,
                             " are taken at once, send it in parts"));
  return check.status();
}

absl::Status TokenizeInto(const v1::TokenizeRequest& request, const ServedModel& model,
                          v1::TokenizeResponse* response) {
  std::vector<int32_t> ids;
  if (request.has_chat()) {
    ASSIGN_OR_RETURN(ids, EncodeChat(request.chat(), model, "chat"));
  } else {
    if (request.add_bos()) ids.push_back(model.bos_id);
    model.tokenizer->EncodeAppend(request.text(), &ids);
  }
  response->mutable_token_ids()->Assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status CheckDetokenize(const v1::DetokenizeRequest& request) {
  FieldChecker check;
  check.UnknownFields(request, "");
  check.Require(request.token_ids_size() <= kMaxTextBytes, "token_ids",
                absl::StrCat("has ", request.token_ids_size(), " ids; at most ", kMaxTextBytes,
                             " are taken at once, send them in parts"));
  return check.status();
}

absl::Status DetokenizeInto(const v1::DetokenizeRequest& request, const ServedModel& model,
                            v1::DetokenizeResponse* response) {
  FieldChecker check;
  check.TokenIds("token_ids", request.token_ids(), model.vocab_size);
  RETURN_IF_ERROR(check.status());
  const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
  response->set_text(
      model.tokenizer->Decode(ids, {.skip_special_tokens = request.skip_special_tokens()}));
  return absl::OkStatus();
}

void Describe(const ServedModel& model, v1::GetModelInfoResponse* response) {
  response->set_model(model.deployment);
  response->set_config_json(model.config_json);
  response->set_weights_version(model.weights_version);
  response->set_numerics_id(model.numerics_id);
  response->set_parameter_count(model.parameter_count);
  response->set_max_context(model.max_context);
  response->set_vocab_size(static_cast<int32_t>(model.vocab_size));
  response->set_dtype(model.dtype);
  response->set_device(model.device);
  response->set_prompt_style(model.prompt_style);
  if (model.rope_scaling.type() != "none") *response->mutable_rope_scaling() = model.rope_scaling;
  response->set_lora_path(model.lora_path);
}

}  // namespace

absl::StatusOr<Serving> InferenceServiceImpl::Find(const std::string& name) const {
  Serving serving = host_.Current();
  const HostState state = host_.State();
  if (state.draining) return Draining();
  if (!state.failure.ok()) {
    return Error(
        absl::StatusCode::kUnavailable, "DEVICE_FAILED",
        absl::StrCat("this inference worker's device has failed and it is starting again (",
                     std::string(state.failure.message()), "); send the request to another one"));
  }
  if (serving.model == nullptr) {
    return Error(
        absl::StatusCode::kUnavailable, "NO_MODEL",
        state.load_error.empty()
            ? std::string("no model is loaded yet; deploy one with `mindforge model "
                          "deploy`, or start with --model DIR, and try again")
            : absl::StrCat("no model is loaded; the last load failed: ", state.load_error));
  }
  if (!name.empty() && name != serving.model->deployment) {
    return Error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND",
                 absl::StrCat("no model '", Truncate(name, 80), "' is served here; there is ",
                              serving.model->deployment));
  }
  return serving;
}

absl::StatusOr<Serving> InferenceServiceImpl::Admit(const v1::GenerateRequest& request) const {
  ASSIGN_OR_RETURN(Serving serving, Find(request.model()));
  RETURN_IF_ERROR(EngineRefusal(serving.engine->CheckRoom()));
  return serving;
}

PlanContext InferenceServiceImpl::Arrival(const grpc::CallbackServerContext& context) const {
  return {.now = host_.clock().Now(),
          .call_deadline = CallDeadline(context),
          .random_seed = DrawSeed()};
}

absl::StatusOr<std::shared_ptr<LiveRequest>> InferenceServiceImpl::Prepare(
    const v1::GenerateRequest& request, Serving serving, const PlanContext& arrival) {
  ASSIGN_OR_RETURN(GenerationPlan plan, PlanGeneration(request, *serving.model, arrival));
  return std::make_shared<LiveRequest>(LiveRequest::Env{.model = std::move(serving.model),
                                                        .engine = std::move(serving.engine),
                                                        .clock = &host_.clock(),
                                                        .courier = &courier_,
                                                        .worker_id = options_.worker_id,
                                                        .limits = options_.limits,
                                                        .why_stopped = Draining},
                                       std::move(plan));
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServiceImpl::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const absl::StatusOr<Serving> serving = Admit(*request);
  return StreamGeneration(streams_, context, serving.status(), prompts_, request->ByteSizeLong(),
                          [this, request, serving, arrival = Arrival(*context)] {
                            return Prepare(*request, *serving, arrival);
                          });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::GenerateUnary(
    grpc::CallbackServerContext* context, const v1::GenerateUnaryRequest* request,
    v1::GenerateUnaryResponse* response) {
  const absl::StatusOr<Serving> serving = Admit(request->request());
  return CollectGeneration(
      serving.status(), prompts_, request->ByteSizeLong(),
      [this, request, serving, arrival = Arrival(*context)] {
        return Prepare(request->request(), *serving, arrival);
      },
      response);
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  const absl::StatusOr<Serving> serving = Find(request->model());
  if (!serving.ok()) return End(context, serving.status());
  return EndWith(context, CheckTokenize(*request), texts_, request->ByteSizeLong(),
                 [request, response, model = serving->model] {
                   return TokenizeInto(*request, *model, response);
                 });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  const absl::StatusOr<Serving> serving = Find(request->model());
  if (!serving.ok()) return End(context, serving.status());
  return EndWith(context, CheckDetokenize(*request), texts_, request->ByteSizeLong(),
                 [request, response, model = serving->model] {
                   return DetokenizeInto(*request, *model, response);
                 });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::GetModelInfo(grpc::CallbackServerContext* context,
                                                             const v1::GetModelInfoRequest* request,
                                                             v1::GetModelInfoResponse* response) {
  const absl::StatusOr<Serving> serving = Find(request->model());
  if (serving.ok()) Describe(*serving->model, response);
  return End(context, serving.status());
}

}  // namespace mindforge
