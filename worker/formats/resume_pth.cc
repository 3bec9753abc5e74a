#include "worker/formats/resume_pth.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/tensor_names.h"

namespace mindforge {
namespace {

using Kind = PickleValue::Kind;

// Reads members of the document; the first failure is kept.
class ResumeReader {
 public:
  explicit ResumeReader(const PthFile& file) : file_(file) {}

  const PickleValue* Member(const PickleValue& dict, const std::string& name) {
    const PickleValue* const value = dict.Get(name);
    if (value == nullptr) Fail(name, "is missing");
    return value;
  }

  void Read(const PickleValue& dict, const std::string& name, int64_t* out) {
    const PickleValue* const value = Member(dict, name);
    if (value == nullptr) return;
    if (value->kind != Kind::kInt) return Fail(name, "must be an integer", *value);
    *out = value->integer;
  }

  void Read(const PickleValue& dict, const std::string& name, double* out) {
    const PickleValue* const value = Member(dict, name);
    if (value != nullptr) Number(*value, name, out);
  }

  // A float, an integer or a tensor of one element, as AdamW's `step` is.
  void Number(const PickleValue& value, const std::string& name, double* out) {
    if (value.kind == Kind::kFloat) {
      *out = value.number;
      return;
    }
    if (value.kind == Kind::kInt) {
      *out = static_cast<double>(value.integer);
      return;
    }
    const TensorView* const view = file_.TensorOf(value);
    if (view == nullptr || view->elements() != 1) return Fail(name, "must be a number", value);
    const absl::StatusOr<std::vector<float>> values = ToFloats(*view);
    if (!values.ok()) return Fail(name, "must be a number", value);
    *out = (*values)[0];
  }

  void Read(const PickleValue& dict, const std::string& name, TensorView* out) {
    const PickleValue* const value = Member(dict, name);
    if (value == nullptr) return;
    const TensorView* const view = file_.TensorOf(*value);
    if (view == nullptr) return Fail(name, "must be a tensor", *value);
    *out = *view;
    out->name = name;
  }

  void Fail(const std::string& name, const std::string& what) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(file_.path(), ": `", name, "` ", what));
    }
  }
  void Fail(const std::string& name, const std::string& what, const PickleValue& value) {
    Fail(name, absl::StrCat(what, ", it is ", std::string(value.KindName())));
  }

  const absl::Status& status() const { return status_; }

 private:
  const PthFile& file_;
  absl::Status status_;
};

void ReadGroup(const PickleValue& optimizer, ResumeReader* reader, ResumePth* resume) {
  const PickleValue* const groups = reader->Member(optimizer, "param_groups");
  if (groups == nullptr) return;
  if (groups->kind != Kind::kList || groups->items.size() != 1 ||
      groups->items[0]->kind != Kind::kDict) {
    return reader->Fail("param_groups", "must be a list of one group");
  }
  const PickleValue& group = *groups->items[0];
  reader->Read(group, "lr", &resume->learning_rate);
  reader->Read(group, "eps", &resume->epsilon);
  reader->Read(group, "weight_decay", &resume->weight_decay);
  const PickleValue* const betas = reader->Member(group, "betas");
  if (betas == nullptr) return;
  if (betas->items.size() != 2) return reader->Fail("betas", "must be two numbers", *betas);
  reader->Number(*betas->items[0], "betas", &resume->beta1);
  reader->Number(*betas->items[1], "betas", &resume->beta2);
}

// Numbers must be 0, 1, 2 … without a gap: each is a parameter that was updated.
void ReadOptimizer(const PickleValue& optimizer, ResumeReader* reader, ResumePth* resume) {
  const PickleValue* const state = reader->Member(optimizer, "state");
  if (state == nullptr) return;
  if (state->kind != Kind::kDict) return reader->Fail("state", "must be a dictionary", *state);
  const size_t count = state->items.size() / 2;
  std::vector<const PickleValue*> by_number(count, nullptr);
  for (size_t i = 0; i < count; ++i) {
    const PickleValue& key = *state->items[2 * i];
    if (key.kind != Kind::kInt || key.integer < 0 || key.integer >= static_cast<int64_t>(count)) {
      return reader->Fail("state", "must have the keys 0, 1, 2 … of the parameters");
    }
    by_number[static_cast<size_t>(key.integer)] = state->items[2 * i + 1];
  }
  for (const PickleValue* const one : by_number) {
    if (one == nullptr) return reader->Fail("state", "must have each parameter once");
    ResumeMoments moments;
    reader->Read(*one, "step", &moments.step);
    reader->Read(*one, "exp_avg", &moments.first);
    reader->Read(*one, "exp_avg_sq", &moments.second);
    if (moments.first.shape != moments.second.shape) {
      return reader->Fail("exp_avg_sq", "must have the shape of exp_avg");
    }
    resume->optimizer.push_back(std::move(moments));
  }
}

void ReadScaler(const PickleValue& root, ResumeReader* reader, ResumePth* resume) {
  const PickleValue* const scaler = root.Get("scaler");
  if (scaler == nullptr || scaler->Get("scale") == nullptr) return;  // disabled: an empty one
  ResumeScaler& values = resume->scaler.emplace();
  reader->Read(*scaler, "scale", &values.scale);
  reader->Read(*scaler, "growth_factor", &values.growth_factor);
  reader->Read(*scaler, "backoff_factor", &values.backoff_factor);
  reader->Read(*scaler, "growth_interval", &values.growth_interval);
  reader->Read(*scaler, "_growth_tracker", &values.growth_tracker);
}

absl::Status WriteOptimizer(const ResumePth& resume, PthWriter* writer) {
  PickleWriter& pickle = writer->pickle();
  pickle.BeginDict();
  pickle.Text("state");
  pickle.BeginDict();
  for (size_t i = 0; i < resume.optimizer.size(); ++i) {
    const ResumeMoments& moments = resume.optimizer[i];
    const auto step = static_cast<float>(moments.step);  // a tensor, as AdamW keeps it
    const TensorView step_view{.name = "step", .data = &step, .bytes = sizeof(step)};
    pickle.Int(static_cast<int64_t>(i));
    pickle.BeginDict();
    pickle.Text("step");
    RETURN_IF_ERROR(writer->Tensor(step_view, DType::kF32));
    pickle.Text("exp_avg");
    RETURN_IF_ERROR(writer->Tensor(moments.first, moments.first.dtype));
    pickle.Text("exp_avg_sq");
    RETURN_IF_ERROR(writer->Tensor(moments.second, moments.second.dtype));
    pickle.EndDict();
  }
  pickle.EndDict();
  pickle.Text("param_groups");
  pickle.BeginList();
  pickle.BeginDict();
  for (const auto& [name, value] :
       {std::pair{"lr", resume.learning_rate}, std::pair{"eps", resume.epsilon},
        std::pair{"weight_decay", resume.weight_decay}}) {
    pickle.Text(name);
    pickle.Float(value);
  }
  pickle.Text("betas");
  pickle.BeginTuple();
  pickle.Float(resume.beta1);
  pickle.Float(resume.beta2);
  pickle.EndTuple();
  for (const char* const name : {"amsgrad", "maximize", "capturable", "differentiable"}) {
    pickle.Text(name);
    pickle.Bool(false);
  }
  for (const char* const name : {"foreach", "fused"}) {
    pickle.Text(name);
    pickle.None();
  }
  pickle.Text("decoupled_weight_decay");
  pickle.Bool(true);
  pickle.Text("params");
  pickle.BeginList();
  for (size_t i = 0; i < resume.optimizer.size(); ++i) pickle.Int(static_cast<int64_t>(i));
  pickle.EndList();
  pickle.EndDict();
  pickle.EndList();
  pickle.EndDict();
  return absl::OkStatus();
}

void WriteScaler(const std::optional<ResumeScaler>& scaler, PickleWriter* pickle) {
  pickle->BeginDict();
  if (scaler.has_value()) {
    for (const auto& [name, value] :
         {std::pair{"scale", scaler->scale}, std::pair{"growth_factor", scaler->growth_factor},
          std::pair{"backoff_factor", scaler->backoff_factor}}) {
      pickle->Text(name);
      pickle->Float(value);
    }
    pickle->Text("growth_interval");
    pickle->Int(scaler->growth_interval);
    pickle->Text("_growth_tracker");
    pickle->Int(scaler->growth_tracker);
  }
  pickle->EndDict();
}

void AddMlp(const std::string& prefix, std::vector<std::string>* names) {
  for (const char* const part : {"gate", "down", "up"}) {
    names->push_back(absl::StrCat(prefix, part, "_proj.weight"));
  }
}

}  // namespace

std::vector<std::string> ReferenceParameterOrder(const ModelConfig& config) {
  std::vector<std::string> names = {"model.embed_tokens.weight"};
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    for (const char* const part : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      names.push_back(absl::StrCat(prefix, "self_attn.", part, ".weight"));
    }
    if (config.qk_norm) {
      names.push_back(prefix + "self_attn.q_norm.weight");
      names.push_back(prefix + "self_attn.k_norm.weight");
    }
    names.push_back(prefix + "input_layernorm.weight");
    names.push_back(prefix + "post_attention_layernorm.weight");
    const std::string mlp = prefix + "mlp.";
    if (!config.use_moe) {
      AddMlp(mlp, &names);
      continue;
    }
    const bool router_first = config.moe_family == MoeFamily::kMinimind3;
    if (router_first) names.push_back(mlp + "gate.weight");
    for (int64_t e = 0; e < config.n_routed_experts; ++e) {
      AddMlp(absl::StrCat(mlp, "experts.", e, "."), &names);
    }
    if (!router_first) names.push_back(mlp + "gate.weight");
    for (int64_t e = 0; e < config.n_shared_experts; ++e) {
      AddMlp(absl::StrCat(mlp, "shared_experts.", e, "."), &names);
    }
  }
  names.push_back("model.norm.weight");
  if (!config.tie_word_embeddings) names.push_back("lm_head.weight");
  return names;
}

absl::StatusOr<ResumePth> ReadResumePth(const std::string& path) {
  ASSIGN_OR_RETURN(std::shared_ptr<const PthFile> file, PthFile::Open(path));
  ResumePth resume;
  ResumeReader reader(*file);
  const PickleValue& root = file->root();
  const PickleValue* const model = reader.Member(root, "model");
  const PickleValue* const optimizer = reader.Member(root, "optimizer");
  if (model == nullptr || optimizer == nullptr) return reader.status();
  ASSIGN_OR_RETURN(const std::vector<TensorView> stored, file->StateDict());
  ASSIGN_OR_RETURN(resume.model, PlainTensors(stored));
  ReadOptimizer(*optimizer, &reader, &resume);
  ReadGroup(*optimizer, &reader, &resume);
  reader.Read(root, "epoch", &resume.epoch);
  reader.Read(root, "step", &resume.step);
  if (root.Get("world_size") != nullptr) reader.Read(root, "world_size", &resume.world_size);
  if (const PickleValue* const id = root.Get("wandb_id");
      id != nullptr && id->kind != Kind::kNone) {
    if (id->kind != Kind::kText) reader.Fail("wandb_id", "must be text or None", *id);
    resume.tracker_id = std::string(id->text);
  }
  ReadScaler(root, &reader, &resume);
  if (resume.epoch < 0 || resume.step < 0 || resume.world_size < 1) {
    reader.Fail("epoch, step or world_size", "is negative or zero");
  }
  RETURN_IF_ERROR(reader.status());
  resume.file = std::move(file);
  return resume;
}

absl::StatusOr<FileDigest> WriteResumePth(const std::string& path, const ResumePth& resume,
                                          DType model_dtype) {
  ASSIGN_OR_RETURN(const std::unique_ptr<PthWriter> writer, PthWriter::Create(path));
  PickleWriter& pickle = writer->pickle();
  pickle.BeginDict();
  pickle.Text("model");
  RETURN_IF_ERROR(writer->StateDict(resume.model, model_dtype));
  pickle.Text("optimizer");
  RETURN_IF_ERROR(WriteOptimizer(resume, writer.get()));
  for (const auto& [name, value] :
       {std::pair{"epoch", resume.epoch}, std::pair{"step", resume.step},
        std::pair{"world_size", resume.world_size}}) {
    pickle.Text(name);
    pickle.Int(value);
  }
  pickle.Text("wandb_id");
  if (resume.tracker_id.empty()) {
    pickle.None();
  } else {
    pickle.Text(resume.tracker_id);
  }
  pickle.Text("scaler");
  WriteScaler(resume.scaler, &pickle);
  pickle.EndDict();
  return writer->Finish();
}

}  // namespace mindforge
