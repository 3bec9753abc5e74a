#include "worker/train/job_setup.h"

#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "worker/train/failure.h"

namespace mindforge {
namespace {

// FNV-1a: the same in every process, which std::hash does not promise.
uint64_t HashOf(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash ^= static_cast<uint8_t>(c);
    hash *= 0x100000001b3;
  }
  return hash;
}

// Settings that no run can have, whatever the data; the coordinator checked them at submit.
absl::Status CheckRecipe(const TrainOptions& options) {
  std::vector<FieldViolation> violations;
  const auto positive = [&violations](std::string field, int64_t value) {
    if (value >= 1) return;
    violations.push_back({std::move(field), absl::StrCat(value, " is not at least 1")});
  };
  positive("training.epochs", options.recipe.epochs);
  positive("training.microbatch_size", options.recipe.microbatch_size);
  positive("training.accumulation_steps", options.recipe.accumulation_steps);
  if (options.data.max_seq_len < 2) {
    violations.push_back(
        {"data.max_seq_len", absl::StrCat(options.data.max_seq_len, " is not at least 2")});
  }
  if (!(options.recipe.learning_rate > 0)) {
    violations.push_back(
        {"training.learning_rate", absl::StrCat(options.recipe.learning_rate, " is not above 0")});
  }
  return violations.empty() ? absl::OkStatus() : InvalidArgument(violations);
}

absl::StatusOr<std::unique_ptr<Dataset>> OpenDataset(const TrainOptions& options,
                                                     ProgressSink& sink) {
  if (!PathExists(options.data.path)) {
    return InvalidArgument("data.path", absl::StrCat(options.data.path,
                                                     " is not there on this worker; put it "
                                                     "on storage that all workers see"));
  }
  if (!PathExists(options.data.tokenizer)) {
    return InvalidArgument("data.tokenizer", absl::StrCat(options.data.tokenizer,
                                                          " is not there on this worker; "
                                                          "give a folder with tokenizer.json"));
  }
  DatasetOptions dataset{.path = options.data.path,
                         .tokenizer_path = options.data.tokenizer,
                         .max_seq_len = options.data.max_seq_len,
                         .packing = options.data.packing,
                         .cache_dir = options.data.cache_dir,
                         .pad_id = options.model.pad_token_id,
                         .eos_id = options.model.eos_token_id};
  int64_t reported = -1;
  dataset.progress = [&](const TokenCacheProgress& progress) {
    const int64_t percent =
        progress.bytes_total > 0 ? 100 * progress.bytes_done / progress.bytes_total : 0;
    if (percent == reported) return;
    reported = percent;
    sink.OnState({.detail = absl::StrCat("tokenizing ", percent, "%")});
  };
  auto opened = Dataset::Open(std::move(dataset));
  if (opened.ok() || !GetViolations(opened.status()).empty()) return opened;
  const bool of_tokenizer = absl::StrContains(opened.status().message(), options.data.tokenizer) ||
                            absl::StrContains(opened.status().message(), "tokenizer");
  return BlameField(opened.status(), of_tokenizer ? "data.tokenizer" : "data.path");
}

absl::StatusOr<ModelConfig> CompleteModel(const TrainOptions& options, const Dataset& dataset) {
  ModelConfig model = options.model;
  std::vector<FieldViolation> violations;
  const int64_t tokens = dataset.tokenizer().vocab_size();
  if (model.vocab_size == 0) model.vocab_size = tokens;
  if (model.vocab_size < tokens) {
    violations.push_back({"model.vocab_size", absl::StrCat(model.vocab_size, " is less than the ",
                                                           tokens, " tokens of the tokenizer")});
  }
  if (dataset.row_length() > model.max_position_embeddings) {
    violations.push_back(
        {"data.max_seq_len", absl::StrCat("rows of ", dataset.row_length(),
                                          " tokens exceed model.max_position_embeddings, ",
                                          model.max_position_embeddings)});
  }
  for (const auto& problem : ValidateModelConfig(model)) {
    violations.push_back({absl::StrCat("model.", problem.field), problem.reason});
  }
  if (!violations.empty()) return InvalidArgument(violations);
  return model;
}

nlohmann::json SettingsOf(const TrainOptions& options, const JobSetup& setup) {
  const TrainRecipe& recipe = options.recipe;
  return {{"model", ModelConfigToJson(setup.model)},
          {"max_seq_len", options.data.max_seq_len},
          {"packing", options.data.packing},
          {"epochs", recipe.epochs},
          {"microbatch_size", recipe.microbatch_size},
          {"accumulation_steps", recipe.accumulation_steps},
          {"learning_rate", recipe.learning_rate},
          {"grad_clip", recipe.grad_clip},
          {"weight_decay", recipe.weight_decay},
          {"dtype", recipe.bfloat16 ? "bfloat16" : "float32"},
          {"seed", recipe.seed},
          {"max_steps", recipe.max_steps},
          {"total_steps", setup.total_steps}};
}

}  // namespace

absl::StatusOr<JobSetup> SetUpJob(const TrainOptions& options, ProgressSink& sink) {
  RETURN_IF_ERROR(CheckRecipe(options));
  JobSetup setup;
  ASSIGN_OR_RETURN(setup.dataset, OpenDataset(options, sink));
  if (!options.dataset_digest.empty() && options.dataset_digest != setup.dataset->digest()) {
    return InvalidArgument(
        "data.path",
        absl::StrCat(options.data.path, " has changed since the job began: digest ",
                     setup.dataset->digest(), ", at first start ", options.dataset_digest,
                     "; put the old file back, or submit a new"
                     " job"));
  }
  ASSIGN_OR_RETURN(setup.model, CompleteModel(options, *setup.dataset));
  setup.plan = std::make_unique<EpochPlan>(
      EpochPlanOptions{.sequences = setup.dataset->sequences(),
                       .microbatch_size = options.recipe.microbatch_size,
                       .accumulation_steps = options.recipe.accumulation_steps,
                       .seed = options.recipe.seed});
  setup.total_steps = options.recipe.max_steps > 0
                          ? options.recipe.max_steps
                          : options.recipe.epochs * setup.plan->StepsPerEpoch();
  setup.settings = SettingsOf(options, setup);
  setup.agreement = HashOf(absl::StrCat(
      setup.settings.dump(), "|", setup.dataset->digest(), "|", setup.dataset->sequences(), "|",
      options.device.signature, "|", options.device.threads, "|", kVersion, " ", kBuildType));
  return setup;
}

}  // namespace mindforge
