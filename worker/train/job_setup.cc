#include "worker/train/job_setup.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "worker/formats/tokenizer_files.h"
#include "worker/train/failure.h"
#include "worker/train/numerics_check.h"
#include "xxhash.h"

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

// "tokenizing 40%, 31.5 MB/s".
std::string InWords(const TokenCacheProgress& progress) {
  switch (progress.phase) {
    case TokenCacheProgress::Phase::kWaiting:
      return "waiting for another trainer that tokenizes this dataset";
    case TokenCacheProgress::Phase::kReading:
    case TokenCacheProgress::Phase::kTokenizing:
      break;
  }
  const bool reading = progress.phase == TokenCacheProgress::Phase::kReading;
  const int64_t percent =
      progress.bytes_total > 0
          ? std::min<int64_t>(100 * progress.bytes_done / progress.bytes_total, 100)
          : 100;
  return absl::StrFormat("%s %d%%, %.1f MB/s", reading ? "reading the dataset" : "tokenizing",
                         percent, progress.bytes_per_second / 1e6);
}

// The job file's field that an error of the dataset's is about: the one whose path it names first.
std::string FieldAtFault(const TrainDataOptions& data, const absl::Status& status) {
  const absl::string_view message = status.message();
  std::string field = absl::StrContains(message, "tokenizer") ? "data.tokenizer" : "data.path";
  size_t first = absl::string_view::npos;
  size_t longest = 0;  // of those that begin there: a file's folder may be another field's value
  const auto look_for = [&](std::string name, const std::string& path) {
    const size_t at = message.find(path);
    if (at > first || at == absl::string_view::npos) return;
    if (at == first && path.size() <= longest) return;
    first = at;
    longest = path.size();
    field = std::move(name);
  };
  look_for("data.path", data.path);
  for (size_t i = 0; i < data.more_paths.size(); ++i) {
    look_for(absl::StrCat("data.more_paths[", i, "]"), data.more_paths[i]);
  }
  look_for("data.tokenizer", data.tokenizer);
  return field;
}

absl::Status CheckPaths(const TrainDataOptions& data) {
  std::vector<FieldViolation> violations;
  const auto check = [&violations](std::string field, const std::string& path, const char* remedy) {
    if (PathExists(path)) return;
    violations.push_back(
        {std::move(field), absl::StrCat(path, " is not there on this worker; ", remedy)});
  };
  constexpr char kShare[] = "put it on storage that all workers see";
  check("data.path", data.path, kShare);
  for (size_t i = 0; i < data.more_paths.size(); ++i) {
    check(absl::StrCat("data.more_paths[", i, "]"), data.more_paths[i], kShare);
  }
  check("data.tokenizer", data.tokenizer, "give a folder with tokenizer.json");
  return violations.empty() ? absl::OkStatus() : InvalidArgument(violations);
}

// Says of how many conversations nothing can be learned. INVALID_ARGUMENT: of none can anything.
absl::Status CheckAnswers(const Dataset& dataset, int64_t max_seq_len, ProgressSink& sink) {
  constexpr int64_t kLookedAt = 10000;
  const AnswersFound found = dataset.LookForAnswers(kLookedAt);
  if (!dataset.status().ok()) return WorkerUnfit(std::string(dataset.status().message()));
  if (found.without == 0) return absl::OkStatus();
  const std::string what = absl::StrCat(" no answer within ", max_seq_len, " tokens");
  if (found.without == found.rows) {
    return InvalidArgument("data.max_seq_len",
                           absl::StrCat("of ", found.rows,
                                        " conversations none has an answer "
                                        "that begins within ",
                                        max_seq_len, " tokens: nothing to train on; raise it"));
  }
  sink.OnLog(LogSeverity::kWARNING,
             absl::StrCat(found.without, " of ", found.rows, " conversations",
                          found.without == 1 ? " has" : " have", what,
                          " (data.max_seq_len): nothing is learned from ",
                          found.without == 1 ? "it" : "them"));
  return absl::OkStatus();
}

void TellSkipped(const Dataset& dataset, ProgressSink& sink) {
  const int64_t lines = dataset.skipped_lines();
  if (lines == 0) return;
  sink.OnLog(LogSeverity::kWARNING,
             absl::StrCat(lines, lines == 1 ? " malformed line was" : " malformed lines were",
                          " left out (data.malformed_lines: skip)"));
  for (const absl::string_view file : absl::StrSplit(dataset.notes(), '\n', absl::SkipEmpty())) {
    sink.OnLog(LogSeverity::kWARNING, absl::StrCat("left out of ", file));
  }
}

// A job goes on with the ids that its rows were made with so far, whatever the tokenizer's folder
// says: earlier builds did not look there.
void KeepIds(const TrainOptions& options, DatasetOptions& dataset) {
  for (const CheckpointFolder& point : options.resume_points) {
    const absl::StatusOr<CheckpointState> state = ReadCheckpointState(point.path);
    // Whoever loads it says why.
    if (!state.ok() || !state->config.contains("model")) continue;
    const nlohmann::json& model = state->config.at("model");
    for (const auto& [name, id] :
         {std::pair{"pad_token_id", &dataset.pad_id}, std::pair{"bos_token_id", &dataset.bos_id},
          std::pair{"eos_token_id", &dataset.eos_id}}) {
      const auto was = model.find(name);
      if (was != model.end() && was->is_number_integer()) *id = was->get<int64_t>();
    }
    return;
  }
}

absl::StatusOr<std::unique_ptr<Dataset>> OpenDataset(const TrainOptions& options,
                                                     ProgressSink& sink) {
  RETURN_IF_ERROR(CheckPaths(options.data));
  DatasetOptions dataset{.path = options.data.path,
                         .tokenizer_path = options.data.tokenizer,
                         .max_seq_len = options.data.max_seq_len,
                         .packing = options.data.packing,
                         .cache_dir = options.data.cache_dir};
  dataset.add_bos_eos = options.data.add_bos_eos;
  if (options.data.conversations) {
    dataset.conversations =
        ConversationOptions{.random_system_fraction = options.data.random_system_fraction,
                            .drop_empty_think_fraction = options.data.drop_empty_think_fraction,
                            .seed = options.recipe.seed};
  }
  KeepIds(options, dataset);
  dataset.more_paths = options.data.more_paths;
  dataset.expected_digest = options.dataset_digest;
  if (options.data.skip_malformed_lines) dataset.malformed = MalformedLines::kSkip;
  dataset.progress = [&sink](const TokenCacheProgress& progress) {
    sink.OnState({.detail = InWords(progress)});
  };
  auto opened = Dataset::Open(std::move(dataset));
  if (!opened.ok()) {
    // Of the cache's folder, which names itself: one that may not be written, a full disk.
    if (absl::IsInvalidArgument(opened.status()) && !GetViolations(opened.status()).empty()) {
      return opened;
    }
    if (!GetViolations(opened.status()).empty()) {
      return WorkerUnfit(std::string(opened.status().message()));
    }
    if (GetReason(opened.status()) == kUnusableData) return opened;
    return BlameField(opened.status(), FieldAtFault(options.data, opened.status()));
  }
  TellSkipped(**opened, sink);
  RETURN_IF_ERROR(CheckAnswers(**opened, options.data.max_seq_len, sink));
  return opened;
}

// An error of the data and the tokenizer of a job that began elsewhere or before with this very
// data: what is missing is missing on this worker, and lines that are refused were read by the
// build it began with, whose rows it must go on with. Of a job that begins, what the data is
// refused for is the user's.
absl::Status OfThisWorker(const TrainOptions& options, const absl::Status& status) {
  // A file that cannot be read or that changes meanwhile, a full disk: nothing of the device's.
  if (ClassifyFailure(status) == FailureClass::kInternal) {
    return WorkerUnfit(absl::StrCat("on ", HostName(), ": ", std::string(status.message())));
  }
  const bool begun = !options.dataset_digest.empty();
  const bool unusable = GetReason(status) == kUnusableData;
  if (unusable && !begun) return BlameField(status, FieldAtFault(options.data, status));
  if (!begun || ClassifyFailure(status) != FailureClass::kUser) return status;
  const std::string why(status.message());
  if (unusable) {
    return WorkerUnfit(absl::StrCat(
        "the job began with this very data, of which this build refuses what the earlier one read, "
        "on ",
        HostName(), ": ", why,
        "; run the earlier build, and the job goes on, or mend the data and submit a new job with "
        "init_from"));
  }
  return WorkerUnfit(
      absl::StrCat("on ", HostName(), " the job's data is not as at its first start: ", why,
                   "; mount the same storage there, put the old files back or run the earlier "
                   "build, and the job "
                   "goes on; to train on other data, cancel it and submit a new one"));
}

// OK when `files` are what the dataset's tokens were made with.
absl::Status CheckTokenizer(const TrainDataOptions& data, const TokenizerFiles& files,
                            const Dataset& dataset) {
  const std::string& text = files.texts.at("tokenizer.json");
  if (absl::StrFormat("%016x", XXH3_64bits(text.data(), text.size())) ==
      dataset.tokenizer_digest()) {
    return absl::OkStatus();
  }
  return InvalidArgument("data.tokenizer", absl::StrCat(data.tokenizer,
                                                        " was changed while the job started; leave "
                                                        "it alone and submit the job again"));
}

absl::StatusOr<ModelConfig> CompleteModel(const TrainOptions& options, const Dataset& dataset) {
  ModelConfig model = options.model;
  // What the rows were made with: whoever serves the result stops and begins at the same ids.
  model.pad_token_id = dataset.pad_id();
  model.bos_token_id = dataset.bos_id();
  model.eos_token_id = dataset.eos_id();
  std::vector<FieldViolation> violations;
  const int64_t tokens = dataset.vocab_size();
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

// What comes of the dataset's and the tokenizer's files.
absl::Status TakeData(const TrainOptions& options, ProgressSink& sink, JobSetup* setup) {
  // Before the data, which may take hours to tokenize: checkpoints carry what they are made with.
  absl::StatusOr<TokenizerFiles> tokenizer = ReadTokenizerFiles(options.data.tokenizer);
  ASSIGN_OR_RETURN(setup->dataset, OpenDataset(options, sink));
  if (!tokenizer.ok()) return BlameField(tokenizer.status(), "data.tokenizer");
  RETURN_IF_ERROR(CheckTokenizer(options.data, *tokenizer, *setup->dataset));
  setup->tokenizer = std::move(tokenizer->texts);
  ASSIGN_OR_RETURN(setup->model, CompleteModel(options, *setup->dataset));
  ASSIGN_OR_RETURN(setup->split,
                   RowSplit::Make(setup->dataset->sequences(), options.data.validation_fraction,
                                  options.recipe.seed));
  return absl::OkStatus();
}

const char* NameOf(Schedule schedule) {
  return schedule == Schedule::kCosine ? "cosine" : "cosine_from_lr";
}

const char* NameOf(NanPolicy policy) {
  switch (policy) {
    case NanPolicy::kStop:
      return "stop";
    case NanPolicy::kSkip:
      return "skip";
    case NanPolicy::kRollBack:
      return "rollback";
  }
  return "";
}

nlohmann::json SettingsOf(const TrainOptions& options, const JobSetup& setup) {
  const TrainRecipe& recipe = options.recipe;
  return {{"model", ModelConfigToJson(setup.model)},
          {"max_seq_len", options.data.max_seq_len},
          {"packing", options.data.packing},
          {"format", options.data.conversations ? "conversations" : "text"},
          {"add_bos_eos", options.data.add_bos_eos},
          {"random_system_fraction", options.data.random_system_fraction},
          {"drop_empty_think_fraction", options.data.drop_empty_think_fraction},
          {"validation_fraction", options.data.validation_fraction},
          {"epochs", recipe.epochs},
          {"microbatch_size", recipe.microbatch_size},
          {"accumulation_steps", recipe.accumulation_steps},
          {"learning_rate", recipe.learning_rate},
          {"schedule", NameOf(recipe.schedule)},
          {"grad_clip", recipe.grad_clip},
          {"weight_decay", recipe.weight_decay},
          {"dtype", NameOf(recipe.dtype)},
          {"nan_policy", NameOf(recipe.nan_policy)},
          {"lora_rank", recipe.lora_rank},
          {"seed", recipe.seed},
          {"max_steps", recipe.max_steps},
          {"total_steps", setup.total_steps},
          {"sequences", setup.dataset->sequences()},
          {"tokenizer", setup.dataset->tokenizer_digest()}};
}

}  // namespace

absl::StatusOr<JobSetup> SetUpJob(const TrainOptions& options, ProgressSink& sink) {
  RETURN_IF_ERROR(CheckRecipe(options));
  JobSetup setup;
  ASSIGN_OR_RETURN(setup.numerics, CheckNumerics(options.device, options.recipe.dtype));
  if (const absl::Status status = TakeData(options, sink, &setup); !status.ok()) {
    return OfThisWorker(options, status);
  }
  setup.plan = std::make_unique<EpochPlan>(
      EpochPlanOptions{.sequences = setup.split->training_rows(),
                       .microbatch_size = options.recipe.microbatch_size,
                       .accumulation_steps = options.recipe.accumulation_steps,
                       .seed = options.recipe.seed});
  setup.total_steps = options.recipe.max_steps > 0
                          ? options.recipe.max_steps
                          : options.recipe.epochs * setup.plan->StepsPerEpoch();
  setup.settings = SettingsOf(options, setup);
  setup.agreement = HashOf(absl::StrCat(setup.settings.dump(), "|", setup.dataset->digest(), "|",
                                        setup.dataset->sequences(), "|", setup.numerics));
  return setup;
}

}  // namespace mindforge
