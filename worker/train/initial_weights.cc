#include "worker/train/initial_weights.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "worker/data/vocabulary.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/lora.h"
#include "worker/formats/named_tensors.h"
#include "worker/train/failure.h"
#include "worker/train/parameters_io.h"
#include "worker/train/reference_resume.h"

namespace mindforge {
namespace {

constexpr char kField[] = "training.init_from";
constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr size_t kMaxNames = 100;  // in one list of a message

// What was opened, and its tensors by the model's names.
struct Source {
  std::optional<ModelFolder> folder;
  std::unique_ptr<NamedTensors> file;
  std::optional<ResumePth> resume;
  std::unordered_map<std::string, const TensorView*> tensors;
  bool head_left_out = false;  // stored beside the embedding that it is tied to

  const TensorView* Find(const std::string& name) const {
    const auto it = tensors.find(name);
    return it == tensors.end() ? nullptr : it->second;
  }
};

void Take(const TensorView& view, Source* source) { source->tensors.emplace(view.name, &view); }

// Weights of one vocabulary, read as another's, would be noise that fits every shape.
absl::Status CheckVocabulary(const ModelFolder& folder, const Dataset& dataset,
                             ProgressSink& sink) {
  if (folder.tokenizer_path.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> mismatch =
      VocabularyMismatch(folder.tokenizer_path, dataset.tokenizer());
  if (!mismatch.ok()) {
    sink.OnLog(LogSeverity::kWARNING,
               absl::StrCat(folder.path, ": whether its tokenizer is the job's is not known: ",
                            std::string(mismatch.status().message())));
  } else if (!mismatch->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.path, " has another vocabulary than the job: ", *mismatch,
        "; give its tokenizer as data.tokenizer, or its model.safetensors as training.init_from to "
        "train its weights for the job's"));
  }
  return absl::OkStatus();
}

absl::Status OpenFolder(const std::string& path, bool keep_adapters, Source* source,
                        ProgressSink& sink) {
  if (PathExists(JoinPath(path, "MANIFEST.json"))) RETURN_IF_ERROR(VerifyCheckpoint(path));
  ASSIGN_OR_RETURN(source->folder, OpenModelFolder(path));
  ModelFolder& folder = *source->folder;
  for (const std::string& warning : folder.warnings) {
    sink.OnLog(LogSeverity::kWARNING, absl::StrCat(path, ": ", warning));
  }
  if (const int64_t rank = folder.lora_rank; rank > 0 && !keep_adapters) {
    RETURN_IF_ERROR(MergeLora(&folder));
    sink.OnLog(LogSeverity::kINFO, absl::StrCat(path, ": its adapters of rank ", rank,
                                                " were merged into the weights"));
  }
  for (const auto& [name, view] : folder.tensors) source->tensors.emplace(name, view);
  return absl::OkStatus();
}

absl::StatusOr<Source> OpenSource(const std::string& path, bool lora, ProgressSink& sink) {
  Source source;
  if (PathExists(JoinPath(path, "config.json"))) {
    RETURN_IF_ERROR(OpenFolder(path, /*keep_adapters=*/lora, &source, sink));
    return source;
  }
  ASSIGN_OR_RETURN(source.resume, TryReadReferenceResume(path));
  if (source.resume.has_value()) {
    for (const TensorView& view : source.resume->model) Take(view, &source);
    return source;
  }
  ASSIGN_OR_RETURN(source.file, NamedTensors::Open(path));
  for (const TensorView& view : source.file->tensors()) Take(view, &source);
  return source;
}

// Of a job that has begun, rank 0 may be on another worker than before: what cannot be opened there
// was opened elsewhere.
absl::Status NotOpened(const TrainOptions& options, const absl::Status& status) {
  if (options.dataset_digest.empty() || ClassifyFailure(status) != FailureClass::kUser) {
    return status;
  }
  return WorkerUnfit(absl::StrCat(std::string(status.message()), " on ", HostName(),
                                  "; mount its storage there, and the job goes on"));
}

const char* NameOf(MoeFamily family) {
  return family == MoeFamily::kMinimind3 ? "MiniMind-3's" : "MiniMind2's";
}

// What the folder says of its model and the job of its own, where they differ: settings that shapes
// of tensors do not show, and those that tell in a word why the shapes differ.
std::vector<std::string> ConfigMismatches(const ModelConfig& folder, const ModelConfig& job) {
  std::vector<std::string> problems;
  const auto compare = [&problems](const char* name, auto theirs, auto ours) {
    if (theirs == ours) return;
    problems.push_back(
        absl::StrCat(name, " is ", theirs, " in the folder and ", ours, " in the job's model"));
  };
  compare("hidden_size", folder.hidden_size, job.hidden_size);
  compare("num_hidden_layers", folder.num_hidden_layers, job.num_hidden_layers);
  compare("num_attention_heads", folder.num_attention_heads, job.num_attention_heads);
  compare("num_key_value_heads", folder.num_key_value_heads, job.num_key_value_heads);
  compare("head_dim", folder.HeadDim(), job.HeadDim());
  compare("rope_theta", folder.rope_theta, job.rope_theta);
  compare("rms_norm_eps", folder.rms_norm_eps, job.rms_norm_eps);
  compare("qk_norm", folder.qk_norm, job.qk_norm);
  compare("use_moe", folder.use_moe, job.use_moe);
  if (folder.use_moe && job.use_moe) {
    compare("the mixture of experts", NameOf(folder.moe_family), NameOf(job.moe_family));
    compare("num_experts_per_tok", folder.num_experts_per_tok, job.num_experts_per_tok);
    compare("norm_topk_prob", folder.norm_topk_prob, job.norm_topk_prob);
  }
  if (folder.EffectiveRopeScaling() != job.EffectiveRopeScaling()) {
    problems.push_back(
        "rope_scaling is set in the folder, and a job trains without any: take it out of the "
        "folder's config.json if the weights were trained without it");
  }
  return problems;
}

// "3 missing: a, b, c".
void AddList(std::vector<std::string> names, const char* what, std::vector<std::string>* parts) {
  if (names.empty()) return;
  std::sort(names.begin(), names.end());
  const size_t all = names.size();
  if (all > kMaxNames) names.resize(kMaxNames);
  parts->push_back(
      absl::StrCat(all, " ", what, ": ", absl::StrJoin(names, ", "),
                   all > kMaxNames ? absl::StrCat(" and ", all - kMaxNames, " more") : ""));
}

bool SameBits(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.bytes == b.bytes &&
         std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes)) == 0;
}

// A head stored beside the embedding that it is tied to is no mismatch. INVALID_ARGUMENT: it is a
// head of its own.
absl::Status LeaveOutTiedHead(Source* source) {
  const TensorView* const head = source->Find(kHead);
  const TensorView* const embedding = source->Find(kEmbedding);
  if (head == nullptr || embedding == nullptr) return absl::OkStatus();
  if (!SameBits(*head, *embedding)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kHead, " differs from ", kEmbedding,
                     " and the job's model ties them: set model.tie_word_embeddings to false"));
  }
  source->tensors.erase(kHead);
  source->head_left_out = true;
  return absl::OkStatus();
}

struct Match {
  std::vector<ParameterView> used;
  std::vector<std::string> problems;
  int64_t values = 0;
};

Match MatchTensors(const Source& source, const Minimind& model) {
  Match match;
  std::vector<std::string> missing, unexpected, wrong;
  std::unordered_set<std::string> known;
  for (const ParameterView& parameter : model.parameters()) {
    known.insert(parameter.name);
    const TensorView* const tensor = source.Find(parameter.name);
    std::string module;
    if (tensor == nullptr) {
      if (!ParseLoraName(parameter.name, &module)) missing.push_back(parameter.name);
      continue;
    }
    std::string problem = Mismatch(parameter, tensor);
    if (!problem.empty()) {
      wrong.push_back(std::move(problem));
      continue;
    }
    match.used.push_back(parameter);
    match.values += parameter.size;
  }
  for (const auto& [name, tensor] : source.tensors) {
    if (!known.contains(name)) unexpected.push_back(name);
  }
  AddList(std::move(missing), "missing", &match.problems);
  AddList(std::move(unexpected), "unexpected", &match.problems);
  AddList(std::move(wrong), "of a wrong shape or dtype", &match.problems);
  return match;
}

absl::Status LoadWeights(const std::string& path, Source* source, Minimind& model,
                         ProgressSink& sink) {
  if (model.config().tie_word_embeddings) {
    RETURN_IF_ERROR(LeaveOutTiedHead(source)) << path;
  }
  Match match = MatchTensors(*source, model);
  if (source->folder.has_value()) {
    std::vector<std::string> settings = ConfigMismatches(source->folder->config, model.config());
    match.problems.insert(match.problems.begin(), settings.begin(), settings.end());
  }
  if (!match.problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " does not fit the job's model: ", absl::StrJoin(match.problems, "; ")));
  }
  RETURN_IF_ERROR(LoadFlat(
      match.used, [source](const ParameterView& p) { return source->Find(p.name); },
      model.flat_parameters()));
  model.ParametersChanged();
  const size_t own = model.parameters().size() - match.used.size();
  sink.OnLog(LogSeverity::kINFO,
             absl::StrCat("starting from ", path, ": ", match.used.size(), " tensors with ",
                          match.values, " values used, none missing",
                          own > 0 ? absl::StrCat(", ", own, " of new adapters") : "",
                          source->head_left_out ? absl::StrCat(", not needed: ", kHead) : ""));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InitialState> LoadInitialState(const TrainOptions& options, const JobSetup& setup,
                                              Minimind& model, AdamW& optimizer,
                                              ProgressSink& sink) {
  const std::string& path = options.recipe.init_from;
  const bool lora = options.recipe.lora_rank > 0;
  absl::StatusOr<Source> source = OpenSource(path, lora, sink);
  if (!source.ok()) return NotOpened(options, BlameField(source.status(), kField));
  if (source->folder.has_value()) {
    if (const absl::Status status = CheckVocabulary(*source->folder, *setup.dataset, sink);
        !status.ok()) {
      return BlameField(status, kField);
    }
  }
  if (const absl::Status status = LoadWeights(path, &*source, model, sink); !status.ok()) {
    return BlameField(status, kField);
  }
  if (!source->resume.has_value()) return InitialState();
  if (lora) {
    sink.OnLog(LogSeverity::kWARNING,
               absl::StrCat(path,
                            ": its optimizer is of the whole model, of which lora trains "
                            "nothing: the weights alone are taken"));
    return InitialState();
  }
  auto resumed = ResumeReference(*source->resume, options, setup, model, optimizer, sink);
  if (!resumed.ok()) return BlameField(resumed.status(), kField);
  return resumed;
}

}  // namespace mindforge
