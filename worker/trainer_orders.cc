#include "worker/trainer_orders.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "worker/train/failure.h"

namespace mindforge {
namespace {

// Leaves a report far below a frame's limit.
constexpr size_t kMaxMessageBytes = 64 << 10;
constexpr size_t kMaxProblems = 100;
constexpr int64_t kDefaultLoraRank = 8;

// Takes the field when it is set; keeps the default otherwise.
#define MF_TAKE(from, field, to) \
  if ((from).has_##field()) (to) = (from).field()

// The mixture that MiniMind-3's fields describe, with that release's defaults.
void TakeMiniMind3Mixture(const v1::ModelSpec& spec, ModelConfig* model) {
  model->moe_family = MoeFamily::kMinimind3;
  model->n_shared_experts = 0;
  model->seq_aux = false;
  model->n_routed_experts = spec.has_num_experts() ? spec.num_experts() : 4;
  model->num_experts_per_tok = spec.has_num_experts_per_tok() ? spec.num_experts_per_tok() : 1;
  model->aux_loss_alpha = spec.has_router_aux_loss_coef() ? spec.router_aux_loss_coef() : 5e-4;
  MF_TAKE(spec, moe_intermediate_size, model->moe_intermediate_size);
}

ModelConfig ModelFromSpec(const v1::ModelSpec& spec) {
  ModelConfig model;
  model.vocab_size = 0;  // the tokenizer's, unless given
  MF_TAKE(spec, hidden_size, model.hidden_size);
  MF_TAKE(spec, num_hidden_layers, model.num_hidden_layers);
  MF_TAKE(spec, vocab_size, model.vocab_size);
  MF_TAKE(spec, num_attention_heads, model.num_attention_heads);
  MF_TAKE(spec, num_key_value_heads, model.num_key_value_heads);
  MF_TAKE(spec, head_dim, model.head_dim);
  MF_TAKE(spec, intermediate_size, model.intermediate_size);
  MF_TAKE(spec, max_position_embeddings, model.max_position_embeddings);
  MF_TAKE(spec, rope_theta, model.rope_theta);
  MF_TAKE(spec, rms_norm_eps, model.rms_norm_eps);
  MF_TAKE(spec, dropout, model.dropout);
  MF_TAKE(spec, flash_attention, model.flash_attention);
  MF_TAKE(spec, tie_word_embeddings, model.tie_word_embeddings);
  MF_TAKE(spec, qk_norm, model.qk_norm);
  MF_TAKE(spec, use_moe, model.use_moe);
  MF_TAKE(spec, num_experts_per_tok, model.num_experts_per_tok);
  MF_TAKE(spec, n_routed_experts, model.n_routed_experts);
  MF_TAKE(spec, n_shared_experts, model.n_shared_experts);
  MF_TAKE(spec, aux_loss_alpha, model.aux_loss_alpha);
  MF_TAKE(spec, seq_aux, model.seq_aux);
  MF_TAKE(spec, norm_topk_prob, model.norm_topk_prob);
  if (spec.has_num_experts() || spec.has_moe_intermediate_size() ||
      spec.has_router_aux_loss_coef()) {
    TakeMiniMind3Mixture(spec, &model);
  }
  return model;
}

// In a folder of data files, or beside the one file.
std::string DefaultCacheDir(const std::string& path) {
  std::error_code not_there;  // then opening it says so
  const std::filesystem::path data(path);
  const std::filesystem::path folder =
      std::filesystem::is_directory(data, not_there) ? data : data.parent_path();
  return (folder / ".mindforge-cache").string();
}

// The value of a word; of an unset one the first.
template <typename T>
absl::StatusOr<T> OneOf(const char* field, const std::string& word,
                        const std::vector<std::pair<const char*, T>>& choices) {
  if (word.empty()) return choices.front().second;
  std::vector<std::string> words;
  for (const auto& [choice, value] : choices) {
    if (word == choice) return value;
    words.push_back(choice);
  }
  return InvalidArgument(field,
                         absl::StrCat("'", word, "' is not one of ", absl::StrJoin(words, ", ")));
}

absl::StatusOr<TrainDataOptions> DataFromSpec(const v1::DataSpec& spec) {
  TrainDataOptions data{.path = spec.path(), .tokenizer = spec.tokenizer()};
  MF_TAKE(spec, max_seq_len, data.max_seq_len);
  MF_TAKE(spec, packing, data.packing);
  MF_TAKE(spec, validation_fraction, data.validation_fraction);
  data.more_paths.assign(spec.more_paths().begin(), spec.more_paths().end());
  MF_TAKE(spec, add_bos_eos, data.add_bos_eos);
  MF_TAKE(spec, random_system_fraction, data.random_system_fraction);
  MF_TAKE(spec, drop_empty_think_fraction, data.drop_empty_think_fraction);
  ASSIGN_OR_RETURN(data.conversations, OneOf<bool>("data.format", spec.format(),
                                                   {{"text", false}, {"conversations", true}}));
  ASSIGN_OR_RETURN(data.skip_malformed_lines,
                   OneOf<bool>("data.malformed_lines", spec.malformed_lines(),
                               {{"refuse", false}, {"skip", true}}));
  data.cache_dir = spec.cache_dir().empty() ? DefaultCacheDir(data.path) : spec.cache_dir();
  return data;
}

absl::StatusOr<TrainRecipe> RecipeFromSpec(const v1::TrainingSpec& spec) {
  TrainRecipe recipe{.init_from = spec.init_from()};
  MF_TAKE(spec, epochs, recipe.epochs);
  MF_TAKE(spec, microbatch_size, recipe.microbatch_size);
  MF_TAKE(spec, accumulation_steps, recipe.accumulation_steps);
  MF_TAKE(spec, learning_rate, recipe.learning_rate);
  MF_TAKE(spec, grad_clip, recipe.grad_clip);
  MF_TAKE(spec, weight_decay, recipe.weight_decay);
  ASSIGN_OR_RETURN(recipe.schedule, OneOf<Schedule>("training.schedule", spec.schedule(),
                                                    {{"cosine", Schedule::kCosine},
                                                     {"cosine_from_lr", Schedule::kCosineFromLr}}));
  MF_TAKE(spec, seed, recipe.seed);
  MF_TAKE(spec, max_steps, recipe.max_steps);
  ASSIGN_OR_RETURN(recipe.dtype, OneOf<TrainDtype>("training.dtype", spec.dtype(),
                                                   {{"bfloat16", TrainDtype::kBfloat16},
                                                    {"float16", TrainDtype::kFloat16},
                                                    {"float32", TrainDtype::kFloat32}}));
  ASSIGN_OR_RETURN(recipe.nan_policy, OneOf<NanPolicy>("training.nan_policy", spec.nan_policy(),
                                                       {{"stop", NanPolicy::kStop},
                                                        {"skip", NanPolicy::kSkip},
                                                        {"rollback", NanPolicy::kRollBack}}));
  return recipe;
}

absl::StatusOr<TrainDevice> DeviceFromOrder(const v1::Device& order) {
  TrainDevice device{.threads = std::max(1, order.threads()),
                     .model = order.model(),
                     .signature = order.signature()};
  if (order.kind() == v1::DEVICE_KIND_CPU) return device;
  absl::string_view index = order.id();
  if (order.kind() != v1::DEVICE_KIND_CUDA || !absl::ConsumePrefix(&index, "cuda:") ||
      !absl::SimpleAtoi(index, &device.cuda_index) || device.cuda_index < 0) {
    return absl::InternalError(
        absl::StrCat("the agent's order names no device that can train: '", order.id(), "'"));
  }
  return device;
}

// What a user's file or a library says may be no UTF-8; a report with other bytes is not
// understood.
std::string Clean(std::string_view text, size_t bytes) {
  return Truncate(SanitizeUtf8(text), bytes);
}

}  // namespace

absl::StatusOr<TrainOptions> TrainOptionsFromOrder(const v1::StartTraining& order) {
  const v1::JobSpec& spec = order.spec();
  TrainOptions options{.job_id = order.job_id(),
                       .generation = order.generation(),
                       .rank = order.rank(),
                       .world_size = order.world_size(),
                       .model = ModelFromSpec(spec.model())};
  if (options.world_size < 1 || options.rank < 0 || options.rank >= options.world_size) {
    return absl::InternalError(
        absl::StrCat("the agent's order says rank ", options.rank, " of ", options.world_size));
  }
  ASSIGN_OR_RETURN(options.data, DataFromSpec(spec.data()));
  ASSIGN_OR_RETURN(options.recipe, RecipeFromSpec(spec.training()));
  if (spec.has_lora()) {
    options.recipe.lora_rank = kDefaultLoraRank;
    MF_TAKE(spec.lora(), rank, options.recipe.lora_rank);
  }
  ASSIGN_OR_RETURN(options.device, DeviceFromOrder(order.device()));
  options.checkpoint_dir = order.checkpoint_dir();
  MF_TAKE(spec.checkpoint(), every_steps, options.checkpoint_every);
  MF_TAKE(spec, log_every_steps, options.log_every_steps);
  for (const v1::ResumePoint& point : order.resume_points()) {
    options.resume_points.push_back(
        {.path = point.path(), .step = point.step(), .generation = point.generation()});
  }
  options.dataset_digest = order.dataset_digest();
  for (const v1::WorldSizeChange& change : order.world_size_history()) {
    options.world_size_history.push_back(
        {.first_step = change.from_step(), .world_size = change.world_size()});
  }
  for (const v1::NumericsChange& change : order.numerics_history()) {
    options.numerics_history.push_back(
        {.first_step = change.from_step() + 1, .name = change.name()});
  }
  if (order.has_store_socket()) options.store_fd = kStoreFd;
  if (options.rank == 0 && options.world_size > 1 && options.store_fd < 0) {
    return absl::InternalError("the agent gave rank 0 no socket for the group's store");
  }
  if (!order.advertise_host().empty()) options.advertise_host = order.advertise_host();
  return options;
}

v1::TrainerFailure FailureReport(const absl::Status& status) {
  v1::TrainerFailure failure;
  switch (ClassifyFailure(status)) {
    case FailureClass::kUser:
      failure.set_kind(v1::FAILURE_KIND_USER);
      break;
    case FailureClass::kPeer:
      failure.set_kind(v1::FAILURE_KIND_PEER);
      break;
    case FailureClass::kOutOfMemory:
      failure.set_kind(v1::FAILURE_KIND_OUT_OF_MEMORY);
      break;
    case FailureClass::kWorker:
      failure.set_kind(v1::FAILURE_KIND_WORKER);
      break;
    case FailureClass::kInternal:
      failure.set_kind(v1::FAILURE_KIND_INTERNAL);
      break;
  }
  failure.set_message(Clean(std::string(status.message()), kMaxMessageBytes));
  for (const FieldViolation& violation : GetViolations(status)) {
    if (static_cast<size_t>(failure.problems_size()) == kMaxProblems) break;
    v1::FieldProblem* problem = failure.add_problems();
    problem->set_field(SanitizeUtf8(violation.field));
    problem->set_description(Clean(violation.description, kMaxMessageBytes / 8));
  }
  return failure;
}

}  // namespace mindforge
