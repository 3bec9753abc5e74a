// Computes for parity_test.py what the Python reference computes: logits, routing, the auxiliary
// loss and the losses of a training run, of a model folder and the inputs in a safetensors file.
//
//   parity_driver cpu|aten|half|runner MODEL_FOLDER PLAN.safetensors OUT.safetensors
//
// cpu and aten are the training backends on the CPU, half the second in float16, runner the
// inference worker's. A plan without input_ids is only trained.
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <cstdio>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "worker/formats/hf_folder.h"
#include "worker/formats/safetensors.h"
#include "worker/infer/runner_factory.h"
#include "worker/model/adamw.h"
#include "worker/model/aten_minimind.h"
#include "worker/model/minimind.h"
#include "worker/model/schedule.h"
#include "worker/train/parameters_io.h"
#include "worker/train/step_guard.h"

namespace mindforge {
namespace {

void Require(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

template <typename T>
T Require(absl::StatusOr<T> value) {
  Require(value.status());
  return std::move(value).value();
}

class Plan {
 public:
  explicit Plan(const std::string& path) : file_(Require(SafetensorsFile::Open(path))) {}

  bool Has(const char* name) const { return file_->Find(name) != nullptr; }
  at::Tensor Tensor(const char* name) const {
    const TensorView* view = file_->Find(name);
    if (view == nullptr) throw std::runtime_error(std::string("the plan has no ") + name);
    return at::from_blob(const_cast<void*>(view->data), view->shape,
                         view->dtype == DType::kU8 ? at::kByte : at::kLong)
        .clone();
  }
  double Number(const char* name) const { return std::stod(file_->metadata().at(name)); }

 private:
  const std::unique_ptr<SafetensorsFile> file_;
};

using Results = std::map<std::string, at::Tensor>;

Microbatch MicrobatchOf(const at::Tensor& rows, int64_t pad) {  // int64 [B, L + 1]
  Microbatch m;
  m.input_ids = rows.narrow(1, 0, rows.size(1) - 1).contiguous();
  m.targets = rows.narrow(1, 1, rows.size(1) - 1).contiguous();
  m.mask = (m.targets != at::Scalar(pad)).to(at::kByte);
  return m;
}

// The mean losses of the optimizer steps over all of the plan's rows [N, L + 1], float64 [steps],
// and how many steps float16's loss scale had skipped.
Results Train(const Plan& plan, Minimind& model) {
  const at::Tensor rows = plan.Tensor("rows");
  const auto steps = static_cast<int64_t>(plan.Number("steps"));
  const auto accumulation = static_cast<int64_t>(plan.Number("accumulation"));
  const int64_t batch = rows.size(0) / (steps * accumulation);
  const double share = 1.0 / static_cast<double>(accumulation);
  AdamW optimizer(model.parameter_count(), model.device(), {});
  StepGuard guard(model.options().compute == ComputeDtype::kFloat16, NanPolicy::kStop);
  const at::Tensor sum = at::empty({model.parameter_count()});
  const at::Tensor gradient = at::empty({model.parameter_count()});
  at::Tensor losses = at::zeros({steps}, at::kDouble);
  for (int64_t s = 0; s < steps; ++s) {
    sum.zero_();
    const PassOptions pass{.loss_scale = static_cast<float>(guard.loss_scale())};
    for (int64_t i = 0; i < accumulation; ++i) {
      const Microbatch m = MicrobatchOf(rows.narrow(0, (s * accumulation + i) * batch, batch),
                                        model.config().pad_token_id);
      losses[s] += Require(model.ForwardBackward(m, gradient, pass)).item<double>() * share;
      sum.add_(gradient);
    }
    const double rate = CosineLearningRate(plan.Number("learning_rate"), s + 1, steps);
    const AdamWResult result =
        optimizer.Step({guard.next_update(), rate, share / guard.loss_scale()}, sum,
                       model.flat_parameters(), model.compute_parameters());
    if (guard.Finished(result.applied) == StepVerdict::kStop) {
      throw std::runtime_error("the gradient is not finite");
    }
  }
  return {{"losses", losses},
          {"skipped", at::scalar_tensor(guard.counters().skipped_steps, at::kLong)}};
}

// What training adds to the cross entropy of `ids`, a float64 scalar.
at::Tensor AuxiliaryLoss(Minimind& model, const at::Tensor& ids) {
  const Microbatch m{ids, ids, at::ones(ids.sizes(), at::kByte), {}};
  const at::Tensor gradient = at::empty({model.parameter_count()});
  const double loss = Require(model.ForwardBackward(m, gradient)).item<double>();
  const LossSum entropy = Require(model.EvaluateLoss(m));
  return at::scalar_tensor(loss - entropy.sum / static_cast<double>(entropy.targets), at::kDouble);
}

Results RunModel(const std::string& backend, const ModelFolder& folder, const Plan& plan) {
  const c10::Device cpu(c10::kCPU);
  std::vector<at::Tensor> routing;
  MinimindOptions options;
  options.routing = &routing;
  if (backend == "half") options.compute = ComputeDtype::kFloat16;
  const std::unique_ptr<Minimind> model =
      backend == "cpu" ? Require(Minimind::Create(folder.config, cpu, options))
                       : MakeAtenMinimind(folder.config, cpu, options);
  Require(LoadFlat(
      model->parameters(), [&](const ParameterView& view) { return folder.Find(view.name); },
      model->flat_parameters()));
  model->ParametersChanged();
  if (!plan.Has("input_ids")) return Train(plan, *model);
  const at::Tensor ids = plan.Tensor("input_ids");
  Results results;
  results["logits"] = Require(model->Logits(ids));
  if (!routing.empty()) results["routing"] = at::stack(routing);  // [layers, B · T, k]
  results["padded_logits"] = Require(model->Logits(ids, plan.Tensor("padding_mask")));
  results["aux_loss"] = AuxiliaryLoss(*model, ids);
  results.merge(Train(plan, *model));
  return results;
}

Results RunRunner(const std::string& folder, const Plan& plan) {
  const at::Tensor ids = plan.Tensor("input_ids").to(at::kInt).contiguous();
  const int64_t length = ids.size(1);
  RunnerOptions options;
  options.model_folder = folder;
  options.slots = ids.size(0);
  options.max_batch_tokens = ids.numel();
  options.max_context = length;
  const auto runner = Require(MakeModelRunner(options));
  StepBatch batch;
  for (int64_t row = 0; row < ids.size(0); ++row) {
    const auto* tokens = ids.const_data_ptr<int32_t>() + row * length;
    batch.rows.push_back({row, 0, {tokens, static_cast<size_t>(length)}, length});
  }
  const at::Tensor logits = at::empty({ids.size(0), length, runner->vocab_size()});
  Require(runner->Forward(batch, logits.mutable_data_ptr<float>()));
  return {{"logits", logits}};
}

void Write(const Results& results, const std::string& path) {
  std::vector<TensorView> views;
  std::vector<at::Tensor> kept;
  for (const auto& [name, tensor] : results) {
    kept.push_back(tensor.contiguous());
    const at::Tensor& x = kept.back();
    const DType dtype = x.scalar_type() == at::kFloat    ? DType::kF32
                        : x.scalar_type() == at::kDouble ? DType::kF64
                                                         : DType::kI64;
    views.push_back(
        {name, dtype, x.sizes().vec(), x.const_data_ptr(), static_cast<int64_t>(x.nbytes())});
  }
  Require(WriteSafetensors(path, views, {}).status());
}

void Run(const std::string& backend, const std::string& folder, const Plan& plan,
         const std::string& out) {
  if (backend == "runner") {
    Write(RunRunner(folder, plan), out);
  } else {
    Write(RunModel(backend, Require(OpenModelFolder(folder)), plan), out);
  }
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: parity_driver cpu|aten|half|runner MODEL_FOLDER PLAN OUT\n");
    return 2;
  }
  try {
    mindforge::Run(argv[1], argv[2], mindforge::Plan(argv[3]), argv[4]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "parity_driver %s: %s\n", argv[1], error.what());
    return 1;
  }
  return 0;
}
