#include "coordinator/rpc/validate_job.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "coordinator/rpc/field_check.h"
#include "coordinator/rpc/job_defaults.h"
#include "coordinator/rpc/validate_model.h"

namespace mindforge {
namespace {

constexpr size_t kMaxNameBytes = 63;
constexpr int kMaxMorePaths = 1000;

void CheckPaths(const v1::DataSpec& data, FieldCheck& check) {
  check.Path(
      "data.path", data.path(),
      "a .jsonl, .jsonl.gz or .jsonl.zst file, one JSON object a line, or a folder of such files",
      true);
  if (!check.Require(data.more_paths_size() <= kMaxMorePaths, "data.more_paths",
                     absl::StrCat("has ", data.more_paths_size(), " entries, at most ",
                                  kMaxMorePaths, ": give a folder instead"))) {
    return;
  }
  std::set<std::string> seen = {data.path()};
  for (int i = 0; i < data.more_paths_size(); ++i) {
    const std::string field = absl::StrCat("data.more_paths[", i, "]");
    const std::string& path = data.more_paths(i);
    if (check.Path(field, path, "a file or folder, or leave the entry out", true)) {
      check.Require(
          seen.insert(path).second, field,
          absl::StrCat("is '", path, "', which is given before: its rows would count twice"));
    }
  }
}

void CheckFormat(const v1::DataSpec& data, FieldCheck& check) {
  if (!check.OneOf("data.format", data.format(), {"text", "conversations"})) return;
  check.Range("data.random_system_fraction", data.random_system_fraction(), 0.0, 1.0);
  check.Range("data.drop_empty_think_fraction", data.drop_empty_think_fraction(), 0.0, 1.0);
  if (data.format() == "conversations") {
    check.Require(!data.add_bos_eos(), "data.add_bos_eos",
                  "is true, and data.format is conversations, whose bos and eos are those of the "
                  "chat template: leave it out");
    return;
  }
  constexpr char kOfConversations[] =
      "is set, and data.format is text: it is an option of data.format: conversations";
  check.Require(data.random_system_fraction() == 0, "data.random_system_fraction",
                kOfConversations);
  check.Require(data.drop_empty_think_fraction() == 0, "data.drop_empty_think_fraction",
                kOfConversations);
  check.Require(!data.add_bos_eos() || data.max_seq_len() != 2, "data.max_seq_len",
                "is 2, which bos and eos fill (data.add_bos_eos): must be at least 3");
}

void CheckData(const v1::JobSpec& job, FieldCheck& check) {
  const v1::DataSpec& data = job.data();
  CheckPaths(data, check);
  CheckFormat(data, check);
  check.Path("data.tokenizer", data.tokenizer(), "a folder with tokenizer.json, or that file",
             true);
  check.Path("data.cache_dir", data.cache_dir(), "", false);
  if (check.Range("data.max_seq_len", data.max_seq_len(), int64_t{2}, 1 << 20)) {
    check.Require(data.max_seq_len() <= job.model().max_position_embeddings(), "data.max_seq_len",
                  absl::StrCat("is ", data.max_seq_len(), ", at most max_position_embeddings (",
                               job.model().max_position_embeddings(), ")"));
  }
  check.OneOf("data.malformed_lines", data.malformed_lines(), {"refuse", "skip"});
  check.Range("data.validation_fraction", data.validation_fraction(), 0.0, 0.5);
}

void CheckTraining(const v1::TrainingSpec& training, FieldCheck& check) {
  check.Range("training.epochs", training.epochs(), int64_t{1}, 1'000'000);
  check.Range("training.microbatch_size", training.microbatch_size(), int64_t{1}, 65536);
  check.Range("training.accumulation_steps", training.accumulation_steps(), int64_t{1}, 65536);
  check.Range("training.learning_rate", training.learning_rate(), 0.0, 100.0, /*open_low=*/true);
  check.Range("training.grad_clip", training.grad_clip(), 0.0, 1e9);
  check.Range("training.weight_decay", training.weight_decay(), 0.0, 100.0);
  check.OneOf("training.dtype", training.dtype(), {"bfloat16", "float16", "float32"});
  check.OneOf("training.schedule", training.schedule(), {"cosine", "cosine_from_lr"});
  check.OneOf("training.nan_policy", training.nan_policy(), {"stop", "skip", "rollback"});
  check.Range("training.max_steps", training.max_steps(), int64_t{0}, kLots);
  check.Path("training.init_from", training.init_from(), "", false);
}

// Adapters go beside square projections: one must be there. `sizes_fit`: those of the model.
void CheckLora(const v1::JobSpec& job, bool sizes_fit, FieldCheck& check) {
  if (!job.has_lora()) return;
  const v1::ModelSpec& model = job.model();
  const int64_t hidden = model.hidden_size();
  check.Range("lora.rank", job.lora().rank(), int64_t{1}, std::max<int64_t>(1, hidden));
  check.Require(!job.training().init_from().empty(), "training.init_from",
                "is missing: lora trains adapters beside a model that is there; give its folder, "
                "its .safetensors or its .pth file");
  if (!sizes_fit) return;  // refused already; their products may be beyond any number
  const int64_t dim = model.head_dim();
  const int64_t inner = model.use_moe() && model.has_moe_intermediate_size()
                            ? model.moe_intermediate_size()
                            : model.intermediate_size();
  const bool square = model.num_attention_heads() * dim == hidden ||
                      model.num_key_value_heads() * dim == hidden || inner == hidden;
  check.Require(square, "lora",
                absl::StrCat("finds no square projection in the model: none of "
                             "num_attention_heads·head_dim, num_key_value_heads·head_dim and "
                             "intermediate_size is hidden_size (",
                             hidden, "); leave lora out to train the whole model"));
}

void CheckWorkers(const v1::JobSpec& job, FieldCheck& check) {
  const v1::WorkersSpec& workers = job.workers();
  check.OneOf("workers.device", workers.device(), {"any", "cpu", "cuda"});
  const bool min_fits = check.Range("workers.min", int64_t{workers.min()}, 1, 65536);
  if (!check.Range("workers.max", int64_t{workers.max()}, 1, 65536) || !min_fits) return;
  check.Require(workers.min() <= workers.max(), "workers.min",
                absl::StrCat("is ", workers.min(), ", at most workers.max (", workers.max(), ")"));
  const int64_t microbatches = job.training().accumulation_steps();
  check.Require(microbatches < 1 || workers.max() <= microbatches, "workers.max",
                absl::StrCat("is ", workers.max(), ", at most training.accumulation_steps (",
                             microbatches, "): a rank without a microbatch would only wait"));
}

// Of what was submitted, before defaults were filled in.
void WarnOfUnusedExperts(const v1::ModelSpec& model, std::vector<std::string>& warnings) {
  const bool names_experts = model.has_num_experts() || model.has_moe_intermediate_size() ||
                             model.has_router_aux_loss_coef() || model.has_n_routed_experts() ||
                             model.has_n_shared_experts();
  if (model.has_use_moe() || !names_experts) return;
  warnings.push_back(
      "the model's experts are set and model.use_moe is not: the model is dense; set model.use_moe "
      "to true for a mixture of experts");
}

void Warn(const v1::JobSpec& job, std::vector<std::string>& warnings) {
  const v1::CheckpointSpec& checkpoint = job.checkpoint();
  if (checkpoint.every_steps() == 0) {
    warnings.push_back(
        "checkpoint.every_steps is 0: only the last step is kept, and a lost worker costs the "
        "whole run");
  }
  if (job.training().max_steps() > 0 && job.training().max_steps() < checkpoint.every_steps()) {
    warnings.push_back(absl::StrCat("checkpoint.every_steps (", checkpoint.every_steps(),
                                    ") is beyond training.max_steps (", job.training().max_steps(),
                                    "): the only checkpoint is the last step's"));
  }
  const bool never = checkpoint.every_steps() == 0;
  if (never && job.data().validation_fraction() > 0) {
    warnings.push_back(
        "data.validation_fraction is set and checkpoint.every_steps is 0: the validation loss is "
        "computed after the last step alone");
  }
  if (never && job.training().nan_policy() == "rollback") {
    warnings.push_back(
        "training.nan_policy is rollback and checkpoint.every_steps is 0: a rollback goes back to "
        "the start");
  }
  if (job.training().dtype() == "float16" && job.workers().device() == "cpu") {
    warnings.push_back(
        "training.dtype is float16 on the CPU, which has no fast arithmetic for it: bfloat16 or "
        "float32 take a fraction of the time");
  }
  if (job.data().format() == "conversations" && job.training().init_from().empty()) {
    warnings.push_back(
        "data.format is conversations and training.init_from is not set: the answers are learned "
        "by fresh weights, which know no language yet");
  }
  if (job.training().learning_rate() > 0.1) {
    warnings.push_back(absl::StrCat("training.learning_rate is ", job.training().learning_rate(),
                                    ", unusually high for AdamW"));
  }
}

}  // namespace

std::string CheckName(const std::string& name) {
  if (name.empty()) return "is missing: give a name of a-z, 0-9 and -, at most 63 characters";
  if (name.size() > kMaxNameBytes) {
    return absl::StrCat("has ", name.size(), " characters, at most ", kMaxNameBytes);
  }
  for (const char c : name) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '-') {
      return absl::StrCat("is '", name, "', may hold only a-z, 0-9 and -");
    }
  }
  if (name.front() == '-' || name.back() == '-') {
    return absl::StrCat("is '", name, "', must not begin or end with -");
  }
  return "";
}

ValidatedJob ValidateJob(const v1::JobSpec& submitted) {
  ValidatedJob result;
  result.spec = submitted;
  v1::JobSpec& job = result.spec;
  FillDefaults(job);
  FieldCheck check(result.violations);
  if (!job.recipe().empty()) check.OneOf("recipe", job.recipe(), RecipeNames());
  if (std::string problem = CheckName(job.name()); !problem.empty()) {
    check.Require(false, "name", std::move(problem));
  }
  const bool sizes_fit = CheckModel(job, submitted, check);
  CheckData(job, check);
  CheckTraining(job.training(), check);
  CheckLora(job, sizes_fit, check);
  CheckWorkers(job, check);
  check.Range("priority", int64_t{job.priority()}, -1'000'000, 1'000'000);
  check.Path("checkpoint.dir", job.checkpoint().dir(),
             "a folder on storage that all workers of the job see", true);
  check.Range("checkpoint.every_steps", job.checkpoint().every_steps(), int64_t{0}, kLots);
  check.Range("checkpoint.keep_last", job.checkpoint().keep_last(), int64_t{1}, 1'000'000);
  check.Range("checkpoint.keep_every", job.checkpoint().keep_every(), int64_t{0}, kLots);
  check.Range("log_every_steps", job.log_every_steps(), int64_t{1}, kLots);
  check.Range("max_failures", int64_t{job.max_failures()}, 0, 1'000'000);
  if (result.violations.empty()) {
    WarnOfUnusedExperts(submitted.model(), result.warnings);
    Warn(job, result.warnings);
  }
  return result;
}

}  // namespace mindforge
