#include "coordinator/rpc/validate_job.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mindforge {
namespace {

constexpr int64_t kLots = int64_t{1} << 40;
constexpr size_t kMaxPathBytes = 4096;
constexpr size_t kMaxNameBytes = 63;
constexpr int kMaxMorePaths = 1000;

// Collects violations; its checks say what the value is and what could stand there.
class Checker {
 public:
  explicit Checker(std::vector<FieldViolation>& out) : out_(out) {}

  bool Require(bool holds, std::string field, std::string description) {
    if (!holds) out_.push_back({std::move(field), std::move(description)});
    return holds;
  }

  bool Range(const std::string& field, int64_t value, int64_t low, int64_t high) {
    return Require(value >= low && value <= high, field,
                   high >= kLots
                       ? absl::StrCat("is ", value, ", must be at least ", low)
                       : absl::StrCat("is ", value, ", must be from ", low, " to ", high));
  }

  // `open_low`: `low` itself is not allowed.
  bool Range(const std::string& field, double value, double low, double high,
             bool open_low = false) {
    const bool holds =
        std::isfinite(value) && value <= high && (open_low ? value > low : value >= low);
    return Require(holds, field,
                   absl::StrCat("is ", value, ", must be ", open_low ? "above " : "from ", low,
                                open_low ? ", at most " : " to ", high));
  }

  bool OneOf(const std::string& field, const std::string& value,
             const std::vector<std::string>& choices) {
    std::string list;
    for (size_t i = 0; i < choices.size(); ++i) {
      absl::StrAppend(&list, i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ", choices[i]);
    }
    return Require(std::find(choices.begin(), choices.end(), value) != choices.end(), field,
                   absl::StrCat("is '", value, "', must be ", list));
  }

  bool Path(const std::string& field, const std::string& path, absl::string_view what,
            bool required) {
    if (path.empty()) {
      return Require(!required, field, absl::StrCat("is missing: give ", what));
    }
    return Require(path.size() <= kMaxPathBytes, field,
                   absl::StrCat("has ", path.size(), " bytes, at most ", kMaxPathBytes)) &&
           Require(path.find('\0') == std::string::npos, field, "holds a zero byte") &&
           Require(path[0] == '/', field,
                   absl::StrCat("is '", path,
                                "', must be an absolute path: workers have other "
                                "working directories than you"));
  }

 private:
  std::vector<FieldViolation>& out_;
};

// Sets an optional field to its default where it is unset.
#define MF_DEFAULT(message, field, value) \
  if (!(message).has_##field()) (message).set_##field(value)

void FillModel(v1::ModelSpec& model) {
  MF_DEFAULT(model, hidden_size, 512);
  MF_DEFAULT(model, num_hidden_layers, 8);
  MF_DEFAULT(model, num_attention_heads, 8);
  const int64_t heads = model.num_attention_heads();
  MF_DEFAULT(model, num_key_value_heads, heads > 0 && heads % 2 == 0 ? 2 : heads);
  MF_DEFAULT(model, head_dim, heads > 0 ? model.hidden_size() / heads : 0);
  const int64_t hidden = model.hidden_size();
  if (hidden > 0 && hidden < kLots) {
    MF_DEFAULT(model, intermediate_size, (hidden * 8 / 3 + 63) / 64 * 64);
  }
  MF_DEFAULT(model, max_position_embeddings, 32768);
  MF_DEFAULT(model, rope_theta, 1e6);
  MF_DEFAULT(model, rms_norm_eps, 1e-5);
  MF_DEFAULT(model, dropout, 0);
  MF_DEFAULT(model, flash_attention, true);
  MF_DEFAULT(model, tie_word_embeddings, true);
  MF_DEFAULT(model, qk_norm, false);
  MF_DEFAULT(model, use_moe, false);
  MF_DEFAULT(model, num_experts_per_tok, 2);
  MF_DEFAULT(model, n_routed_experts, 4);
  MF_DEFAULT(model, n_shared_experts, 1);
  MF_DEFAULT(model, aux_loss_alpha, 0.1);
  MF_DEFAULT(model, seq_aux, true);
  MF_DEFAULT(model, norm_topk_prob, true);
}

void FillDefaults(v1::JobSpec& job) {
  FillModel(*job.mutable_model());
  v1::DataSpec& data = *job.mutable_data();
  MF_DEFAULT(data, max_seq_len, 512);
  MF_DEFAULT(data, packing, false);
  MF_DEFAULT(data, malformed_lines, "refuse");
  MF_DEFAULT(data, validation_fraction, 0);
  v1::TrainingSpec& training = *job.mutable_training();
  MF_DEFAULT(training, epochs, 1);
  MF_DEFAULT(training, microbatch_size, 32);
  MF_DEFAULT(training, accumulation_steps, 8);
  MF_DEFAULT(training, learning_rate, 5e-4);
  MF_DEFAULT(training, grad_clip, 1.0);
  MF_DEFAULT(training, weight_decay, 0.01);
  MF_DEFAULT(training, dtype, "bfloat16");
  MF_DEFAULT(training, seed, 42);
  MF_DEFAULT(training, max_steps, 0);
  MF_DEFAULT(training, nan_policy, "stop");
  v1::WorkersSpec& workers = *job.mutable_workers();
  MF_DEFAULT(workers, min, 1);
  MF_DEFAULT(workers, max, std::max(1, workers.min()));
  MF_DEFAULT(workers, device, "any");
  v1::CheckpointSpec& checkpoint = *job.mutable_checkpoint();
  MF_DEFAULT(checkpoint, every_steps, 100);
  MF_DEFAULT(checkpoint, keep_last, 3);
  MF_DEFAULT(checkpoint, keep_every, 0);
  MF_DEFAULT(job, log_every_steps, 10);
  MF_DEFAULT(job, max_failures, 3);
  if (job.has_lora()) MF_DEFAULT(*job.mutable_lora(), rank, 8);
}
#undef MF_DEFAULT

// True when the heads fit each other and hidden_size. `dim_given`: not filled in as a default.
bool CheckHeads(const v1::ModelSpec& model, bool dim_given, Checker& check) {
  const int64_t hidden = model.hidden_size(), heads = model.num_attention_heads();
  const int64_t kv_heads = model.num_key_value_heads(), dim = model.head_dim();
  if (!check.Range("model.num_attention_heads", heads, int64_t{1}, 1024)) return false;
  const bool kv_fits =
      check.Range("model.num_key_value_heads", kv_heads, int64_t{1}, heads) &&
      check.Require(
          heads % kv_heads == 0, "model.num_key_value_heads",
          absl::StrCat("is ", kv_heads, ", must divide num_attention_heads (", heads, ")"));
  if (!dim_given && !check.Require(hidden % heads == 0, "model.num_attention_heads",
                                   absl::StrCat("is ", heads, ", must divide hidden_size (", hidden,
                                                "), or model.head_dim must be given"))) {
    return false;
  }
  return check.Range("model.head_dim", dim, int64_t{1}, 4096) &&
         check.Require(dim % 2 == 0, "model.head_dim",
                       absl::StrCat("is ", dim,
                                    ", must be even (RoPE turns pairs): choose another "
                                    "hidden_size or num_attention_heads")) &&
         kv_fits;
}

void CheckExperts(const v1::ModelSpec& model, Checker& check) {
  if (!model.use_moe()) return;
  if (check.Range("model.n_routed_experts", model.n_routed_experts(), int64_t{1}, 1024)) {
    check.Range("model.num_experts_per_tok", model.num_experts_per_tok(), int64_t{1},
                model.n_routed_experts());
  }
  check.Range("model.n_shared_experts", model.n_shared_experts(), int64_t{0}, 1024);
}

// True when the sizes of its projections are known.
bool CheckModel(const v1::ModelSpec& model, bool head_dim_given, Checker& check) {
  bool sizes_fit = false;
  if (check.Range("model.hidden_size", model.hidden_size(), int64_t{1}, 65536)) {
    sizes_fit = CheckHeads(model, head_dim_given, check);
    check.Range("model.intermediate_size", model.intermediate_size(), int64_t{1}, 1 << 20);
  }
  check.Range("model.num_hidden_layers", model.num_hidden_layers(), int64_t{1}, 1024);
  if (model.has_vocab_size()) {
    check.Range("model.vocab_size", model.vocab_size(), int64_t{4}, 1 << 20);
  }
  check.Range("model.max_position_embeddings", model.max_position_embeddings(), int64_t{2},
              1 << 20);
  check.Range("model.rope_theta", model.rope_theta(), 1.0, 1e12);
  check.Range("model.rms_norm_eps", model.rms_norm_eps(), 0.0, 1e-1, /*open_low=*/true);
  check.Require(model.dropout() >= 0 && model.dropout() < 1, "model.dropout",
                absl::StrCat("is ", model.dropout(), ", must be from 0 to below 1"));
  check.Range("model.aux_loss_alpha", model.aux_loss_alpha(), 0.0, 1e6);
  CheckExperts(model, check);
  return sizes_fit;
}

void CheckPaths(const v1::DataSpec& data, Checker& check) {
  check.Path("data.path", data.path(),
             "a .jsonl, .jsonl.gz or .jsonl.zst file with a `text` field a line, or a folder of such files",
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

void CheckData(const v1::JobSpec& job, Checker& check) {
  const v1::DataSpec& data = job.data();
  CheckPaths(data, check);
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

void CheckTraining(const v1::TrainingSpec& training, Checker& check) {
  check.Range("training.epochs", training.epochs(), int64_t{1}, 1'000'000);
  check.Range("training.microbatch_size", training.microbatch_size(), int64_t{1}, 65536);
  check.Range("training.accumulation_steps", training.accumulation_steps(), int64_t{1}, 65536);
  check.Range("training.learning_rate", training.learning_rate(), 0.0, 100.0, /*open_low=*/true);
  check.Range("training.grad_clip", training.grad_clip(), 0.0, 1e9);
  check.Range("training.weight_decay", training.weight_decay(), 0.0, 100.0);
  check.OneOf("training.dtype", training.dtype(), {"bfloat16", "float16", "float32"});
  check.OneOf("training.nan_policy", training.nan_policy(), {"stop", "skip", "rollback"});
  check.Range("training.max_steps", training.max_steps(), int64_t{0}, kLots);
  check.Path("training.init_from", training.init_from(), "", false);
}

// Adapters go beside square projections: one must be there. `sizes_fit`: those of the model.
void CheckLora(const v1::JobSpec& job, bool sizes_fit, Checker& check) {
  if (!job.has_lora()) return;
  const v1::ModelSpec& model = job.model();
  const int64_t hidden = model.hidden_size();
  check.Range("lora.rank", job.lora().rank(), int64_t{1}, std::max<int64_t>(1, hidden));
  check.Require(!job.training().init_from().empty(), "training.init_from",
                "is missing: lora trains adapters beside a model that is there; give its folder, "
                "its .safetensors or its .pth file");
  if (!sizes_fit) return;  // refused already; their products may be beyond any number
  const int64_t dim = model.head_dim();
  const bool square = model.num_attention_heads() * dim == hidden ||
                      model.num_key_value_heads() * dim == hidden ||
                      model.intermediate_size() == hidden;
  check.Require(square, "lora",
                absl::StrCat("finds no square projection in the model: none of "
                             "num_attention_heads·head_dim, num_key_value_heads·head_dim and "
                             "intermediate_size is hidden_size (",
                             hidden, "); leave lora out to train the whole model"));
}

void CheckWorkers(const v1::JobSpec& job, Checker& check) {
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
  const bool head_dim_given = submitted.model().has_head_dim();
  Checker check(result.violations);
  if (std::string problem = CheckName(job.name()); !problem.empty()) {
    check.Require(false, "name", std::move(problem));
  }
  const bool sizes_fit = CheckModel(job.model(), head_dim_given, check);
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
  if (result.violations.empty()) Warn(job, result.warnings);
  return result;
}

}  // namespace mindforge
