#include "worker/serve/generation_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/serve/field_checker.h"

namespace mindforge {
namespace {

constexpr int64_t kMaxSequences = 16;
constexpr int64_t kMaxStopStrings = 16;
constexpr int64_t kMaxStopStringBytes = 256;
constexpr int64_t kMaxStopTokens = 256;
constexpr int64_t kMaxShownLogprobs = 20;
constexpr int64_t kMaxFlushTokens = 4096;
constexpr int64_t kMaxRequestIdBytes = 256;
// For tokenizers whose longest token is shorter than the white space that some swallow.
constexpr int64_t kMinTokenBytes = 256;
constexpr int kMaxTools = 128;

bool In(double value, double low, double high) { return value >= low && value <= high; }

// Messages of an absl::Status from below, as violations of `field`.
void AddStatus(const absl::Status& status, const std::string& field, FieldChecker* check) {
  const std::vector<FieldViolation> violations = GetViolations(status);
  if (violations.empty()) check->Add(field, std::string(status.message()));
  for (const FieldViolation& violation : violations) {
    check->Add(violation.field, violation.description);
  }
}

// Whether `bytes` of text could fit the context at all.
bool CouldFit(const std::string& field, size_t bytes, const ServedModel& model,
              FieldChecker* check) {
  const auto most = static_cast<size_t>(
      model.max_context * std::max(kMinTokenBytes, model.tokenizer->max_token_bytes()));
  check->Require(bytes <= most, field,
                 absl::StrCat("has ", bytes, " bytes; a prompt that fits the context of ",
                              model.max_context, " tokens has at most ", most));
  return bytes <= most;
}

std::vector<int32_t> TextPrompt(const v1::GenerateRequest& request, const ServedModel& model,
                                FieldChecker* check) {
  if (!CouldFit("text", request.text().size(), model, check)) return {};
  if (!request.has_add_bos() && model.prompt_style == v1::PROMPT_STYLE_CHAT) {
    v1::ChatMessages chat;
    v1::ChatMessage* message = chat.add_messages();
    message->set_role("user");
    message->set_content(request.text());
    absl::StatusOr<std::vector<int32_t>> ids = EncodeChat(chat, model, "text");
    if (ids.ok()) return *std::move(ids);
    AddStatus(ids.status(), "text", check);
    return {};
  }
  std::vector<int32_t> ids;
  if (!request.has_add_bos() || request.add_bos()) ids.push_back(model.bos_id);
  model.tokenizer->EncodeAppend(request.text(), &ids);
  check->Require(!ids.empty(), "text",
                 "makes a prompt of no tokens; send some text, or set add_bos");
  return ids;
}

std::vector<int32_t> Prompt(const v1::GenerateRequest& request, const ServedModel& model,
                            FieldChecker* check) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return TextPrompt(request, model, check);
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      check->Require(!request.add_bos(), "add_bos",
                     "is for text prompts; put the bos id into token_ids.ids");
      check->Require(!ids.empty(), "token_ids.ids", "is empty; a prompt has at least one token");
      check->TokenIds("token_ids.ids", ids, model.vocab_size);
      return {ids.begin(), ids.end()};
    }
    case v1::GenerateRequest::kChat: {
      check->Require(!request.add_bos(), "add_bos",
                     "is for text prompts; the chat template brings its own special tokens");
      if (!CouldFit("chat", request.chat().ByteSizeLong(), model, check)) return {};
      absl::StatusOr<std::vector<int32_t>> ids = EncodeChat(request.chat(), model, "chat");
      if (ids.ok()) return *std::move(ids);
      AddStatus(ids.status(), "chat", check);
      return {};
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  check->Add("prompt", "is missing; set one of text, token_ids and chat");
  return {};
}

SamplingParams Sampling(const v1::GenerateRequest& request, const SamplingDefaults& defaults,
                        uint64_t random_seed, FieldChecker* check) {
  const v1::SamplingOptions& asked = request.sampling();
  SamplingParams sampling;
  sampling.temperature = asked.has_temperature() ? asked.temperature() : defaults.temperature;
  sampling.top_k = asked.has_top_k() ? asked.top_k() : defaults.top_k;
  sampling.top_p = asked.has_top_p() ? asked.top_p() : defaults.top_p;
  sampling.min_p = asked.has_min_p() ? asked.min_p() : defaults.min_p;
  sampling.seed = asked.has_seed() ? asked.seed() : random_seed;
  sampling.repetition_penalty =
      request.has_repetition_penalty() ? request.repetition_penalty() : defaults.repetition_penalty;
  sampling.presence_penalty = request.presence_penalty();
  sampling.frequency_penalty = request.frequency_penalty();
  CheckSampling(sampling, "sampling.", check);
  CheckRepetitionPenalty(sampling.repetition_penalty, check);
  check->Require(In(sampling.presence_penalty, -100, 100), "presence_penalty",
                 absl::StrCat("is ", sampling.presence_penalty, "; expected -100 to 100"));
  check->Require(In(sampling.frequency_penalty, -100, 100), "frequency_penalty",
                 absl::StrCat("is ", sampling.frequency_penalty, "; expected -100 to 100"));
  if (asked.has_n()) check->Range("sampling.n", asked.n(), 1, kMaxSequences);
  return sampling;
}

StoppingParams Stopping(const v1::GenerateRequest& request, const ServedModel& model,
                        int64_t context_left, FieldChecker* check) {
  const v1::StoppingOptions& asked = request.stopping();
  StoppingParams stopping;
  stopping.max_new_tokens =
      model.defaults.max_new_tokens > 0 ? model.defaults.max_new_tokens : context_left;
  if (asked.has_max_new_tokens()) {
    check->Range("stopping.max_new_tokens", asked.max_new_tokens(), 1, kMostTokens);
    stopping.max_new_tokens = asked.max_new_tokens();
  }
  if (asked.has_min_new_tokens()) {
    check->Range("stopping.min_new_tokens", asked.min_new_tokens(), 0, kMostTokens);
    check->Require(!asked.has_max_new_tokens() || asked.min_new_tokens() <= asked.max_new_tokens(),
                   "stopping.min_new_tokens",
                   absl::StrCat("is ", asked.min_new_tokens(), ", more than max_new_tokens ",
                                asked.max_new_tokens()));
    stopping.min_new_tokens = asked.min_new_tokens();
    stopping.max_new_tokens = std::max(stopping.max_new_tokens, stopping.min_new_tokens);
  }
  check->Require(
      asked.stop_token_ids_size() <= kMaxStopTokens, "stopping.stop_token_ids",
      absl::StrCat("has ", asked.stop_token_ids_size(), " ids; at most ", kMaxStopTokens));
  check->TokenIds("stopping.stop_token_ids", asked.stop_token_ids(), model.vocab_size);
  stopping.stop_token_ids.assign(asked.stop_token_ids().begin(), asked.stop_token_ids().end());
  stopping.eos_token_ids = model.eos_ids;
  stopping.ignore_eos = asked.ignore_eos();
  return stopping;
}

std::vector<std::string> StopStrings(const v1::StoppingOptions& asked, FieldChecker* check) {
  check->Require(
      asked.stop_strings_size() <= kMaxStopStrings, "stopping.stop_strings",
      absl::StrCat("has ", asked.stop_strings_size(), " strings; at most ", kMaxStopStrings));
  for (int i = 0; i < asked.stop_strings_size(); ++i) {
    const std::string field = absl::StrCat("stopping.stop_strings[", i, "]");
    const auto bytes = static_cast<int64_t>(asked.stop_strings(i).size());
    check->Require(bytes >= 1 && bytes <= kMaxStopStringBytes, field,
                   absl::StrCat("has ", bytes, " bytes; expected 1 to ", kMaxStopStringBytes));
  }
  return {asked.stop_strings().begin(), asked.stop_strings().end()};
}

OutputPlan Output(const v1::GenerateRequest& request, FieldChecker* check) {
  const v1::OutputOptions& asked = request.output();
  OutputPlan output;
  output.token_ids = !asked.has_token_ids() || asked.token_ids();
  if (asked.has_top_logprobs()) {
    check->Range("output.top_logprobs", asked.top_logprobs(), 0, kMaxShownLogprobs);
    check->Require(asked.top_logprobs() == 0 || !asked.has_logprobs() || asked.logprobs(),
                   "output.top_logprobs", "is set while logprobs is false; set logprobs to true");
  }
  output.logprobs = asked.logprobs() || asked.top_logprobs() > 0;
  output.prompt_logprobs = asked.prompt_logprobs();
  if (asked.has_flush_interval()) {
    output.flush_interval = check->Positive("output.flush_interval", asked.flush_interval());
    output.flush_tokens = kMaxFlushTokens;  // By time alone, unless it says more.
  }
  if (asked.has_flush_tokens()) {
    check->Range("output.flush_tokens", asked.flush_tokens(), 1, kMaxFlushTokens);
    output.flush_tokens = asked.flush_tokens();
  }
  output.stop_strings = StopStrings(request.stopping(), check);
  output.min_new_tokens = request.stopping().min_new_tokens();
  return output;
}

void CheckContext(const GenerationRequest& sequence, int64_t max_context, FieldChecker* check) {
  const auto prompt = static_cast<int64_t>(sequence.prompt.size());
  const auto resumed = static_cast<int64_t>(sequence.resumed.size());
  check->Require(prompt < max_context, "prompt",
                 absl::StrCat("has ", prompt, " tokens, which fill the context of ", max_context,
                              "; shorten it to at most ", max_context - 1));
  check->Require(prompt >= max_context || prompt + resumed <= max_context, "resume_token_ids",
                 absl::StrCat("has ", resumed, " tokens, which with the prompt's ", prompt,
                              " are more than the context of ", max_context));
}

void CheckResume(const v1::GenerateRequest& request, const ServedModel& model,
                 const StoppingParams& stopping, FieldChecker* check) {
  if (request.resume_token_ids().empty()) return;
  check->TokenIds("resume_token_ids", request.resume_token_ids(), model.vocab_size);
  check->Require(request.sampling().n() <= 1, "resume_token_ids",
                 "cannot be with sampling.n above 1; continue each sequence on its own");
  check->Require(!request.output().prompt_logprobs(), "resume_token_ids",
                 "cannot be with output.prompt_logprobs, which came with the first part");
  check->Require(request.resume_token_ids_size() <= stopping.max_new_tokens, "resume_token_ids",
                 absl::StrCat("has ", request.resume_token_ids_size(),
                              " tokens, more than max_new_tokens ", stopping.max_new_tokens));
}

void CheckChat(const v1::ChatMessages& chat, const std::string& prefix, FieldChecker* check) {
  check->Require(chat.tools_size() <= kMaxTools, prefix + "tools",
                 absl::StrCat("has ", chat.tools_size(), " entries; at most ", kMaxTools));
  for (int i = 0; i < chat.messages_size(); ++i) {
    for (int j = 0; j < chat.messages(i).tool_calls_size(); ++j) {
      const v1::ToolCall& call = chat.messages(i).tool_calls(j);
      const std::string where = absl::StrCat(prefix, "messages[", i, "].tool_calls[", j, "].");
      check->Require(!call.name().empty(), where + "name", "is empty; name the function");
      check->Require(call.has_arguments(), where + "arguments",
                     "is missing; send a JSON object as text, {} for no arguments");
    }
  }
}

Chat ToChat(const v1::ChatMessages& asked) {
  Chat chat;
  for (const v1::ChatMessage& message : asked.messages()) {
    ChatMessage& one = chat.messages.emplace_back();
    one.role = message.role();
    one.content = message.content();
    if (message.has_reasoning_content()) one.reasoning_content = message.reasoning_content();
    for (const v1::ToolCall& call : message.tool_calls()) {
      one.tool_calls.push_back({call.name(), call.arguments()});
    }
  }
  chat.tools.assign(asked.tools().begin(), asked.tools().end());
  return chat;
}

}  // namespace

void CheckSampling(const SamplingParams& sampling, const std::string& prefix, FieldChecker* check) {
  check->Require(In(sampling.temperature, 0, 100), prefix + "temperature",
                 absl::StrCat("is ", sampling.temperature, "; expected 0 (greedy) to 100"));
  check->Range(prefix + "top_k", sampling.top_k, 0, kMostTokens);
  check->Require(In(sampling.top_p, 0, 1) && sampling.top_p > 0, prefix + "top_p",
                 absl::StrCat("is ", sampling.top_p, "; expected more than 0, at most 1 (all)"));
  check->Require(In(sampling.min_p, 0, 1) && sampling.min_p < 1, prefix + "min_p",
                 absl::StrCat("is ", sampling.min_p, "; expected 0 (off) to less than 1"));
}

void CheckRepetitionPenalty(double penalty, FieldChecker* check) {
  check->Require(
      In(penalty, 0.01, 100), "repetition_penalty",
      absl::StrCat("is ", penalty, "; expected 0.01 to 100, where 1 leaves the logits alone"));
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const v1::ChatMessages& asked,
                                                const ServedModel& model,
                                                const std::string& field) {
  FieldChecker check;
  CheckChat(asked, field + ".", &check);
  RETURN_IF_ERROR(check.status());
  ChatRenderOptions options;
  if (asked.has_enable_thinking()) options.enable_thinking = asked.enable_thinking();
  const absl::StatusOr<RenderedChat> rendered =
      model.chat_templates->Render(ToChat(asked), options);
  if (!rendered.ok()) {
    const std::vector<FieldViolation> inner = GetViolations(rendered.status());
    if (inner.empty()) return InvalidArgument(field, std::string(rendered.status().message()));
    for (const FieldViolation& one : inner) check.Add(field + "." + one.field, one.description);
    return check.status();
  }
  if (asked.parse_special_tokens()) return model.tokenizer->Encode(rendered->text);
  return model.tokenizer->EncodeWithPlain(rendered->text, rendered->written);
}

absl::StatusOr<GenerationPlan> PlanGeneration(const v1::GenerateRequest& request,
                                              const ServedModel& model,
                                              const PlanContext& context) {
  FieldChecker check;
  check.UnknownFields(request, "");
  check.Require(static_cast<int64_t>(request.request_id().size()) <= kMaxRequestIdBytes,
                "request_id", absl::StrCat("has more than ", kMaxRequestIdBytes, " bytes"));
  GenerationRequest sequence;
  sequence.prompt = Prompt(request, model, &check);
  sequence.resumed.assign(request.resume_token_ids().begin(), request.resume_token_ids().end());
  CheckContext(sequence, model.max_context, &check);
  GenerationPlan plan;
  plan.request_id = request.request_id();
  sequence.sampling = Sampling(request, model.defaults, context.random_seed, &check);
  plan.seed = sequence.sampling.seed;
  sequence.stopping = Stopping(
      request, model,
      std::max<int64_t>(model.max_context - static_cast<int64_t>(sequence.prompt.size()), 1),
      &check);
  CheckResume(request, model, sequence.stopping, &check);
  plan.output = Output(request, &check);
  plan.call_deadline = context.call_deadline;
  if (request.stopping().has_max_time()) {
    plan.max_time_at =
        context.now + check.Positive("stopping.max_time", request.stopping().max_time());
  }
  RETURN_IF_ERROR(check.status());
  sequence.stopping.deadline = std::min(plan.max_time_at, plan.call_deadline);
  sequence.logprobs = plan.output.logprobs;
  sequence.top_logprobs = request.output().top_logprobs();
  sequence.priority = request.priority();
  const int64_t n = request.sampling().has_n() ? request.sampling().n() : 1;
  for (int64_t i = 0; i < n; ++i) {
    plan.sequences.push_back(sequence);
    plan.sequences.back().sampling.sequence = static_cast<uint64_t>(i);
    plan.sequences.back().prompt_logprobs = plan.output.prompt_logprobs && i == 0;
  }
  return plan;
}

}  // namespace mindforge
