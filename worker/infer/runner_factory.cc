#include "worker/infer/runner_factory.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/hf_folder.h"
#include "worker/infer/cpu_model.h"
#include "worker/infer/cpu_runner.h"
#ifdef MINDFORGE_CUDA
#include "worker/infer/torch_runner.h"
#endif

namespace mindforge {
namespace {

InferDtype KernelDtype(RunnerDtype dtype) {
  return dtype == RunnerDtype::kFloat32 ? InferDtype::kFloat32 : InferDtype::kBfloat16;
}

absl::Status CheckOptions(const RunnerOptions& options) {
  if (options.slots <= 0 || options.max_context <= 1 || options.threads <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "slots ", options.slots, ", max_context ", options.max_context, " and threads ",
        options.threads, ": each must be positive, and a context", " hold at least 2 tokens"));
  }
  return absl::OkStatus();
}

int64_t Context(const RunnerOptions& options, const ModelConfig& config) {
  return std::min(options.max_context, config.max_position_embeddings);
}

absl::StatusOr<std::unique_ptr<ModelRunner>> MakeCpuRunner(const ModelFolder& folder,
                                                           const RunnerOptions& options) {
  const int64_t context = Context(options, folder.config);
  ASSIGN_OR_RETURN(CpuModel model, LoadCpuModel(folder, KernelDtype(options.dtype), context));
  return CpuRunner::Create(std::move(model), {.isa = AvailableInferIsas().back(),
                                              .slots = options.slots,
                                              .max_context = context,
                                              .max_batch_tokens = options.max_batch_tokens,
                                              .threads = options.threads});
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> MakeModelRunner(const RunnerOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const ModelFolder folder, OpenModelFolder(options.model_folder));
  return MakeModelRunner(folder, options);
}

absl::StatusOr<std::unique_ptr<ModelRunner>> MakeModelRunner(const ModelFolder& folder,
                                                             const RunnerOptions& asked) {
  RETURN_IF_ERROR(CheckOptions(asked));
  RunnerOptions options = asked;
  // A step has room for every slot's decode and some prefill.
  options.max_batch_tokens = std::max(asked.max_batch_tokens, asked.slots + 64);
  if (options.device == "cpu") return MakeCpuRunner(folder, options);
  if (!absl::StartsWith(options.device, "cuda")) {
    return absl::InvalidArgumentError(
        absl::StrCat("device `", options.device, "`: expected cpu or cuda:N"));
  }
#ifdef MINDFORGE_CUDA
  options.max_context = Context(options, folder.config);
  return MakeTorchRunner(folder, options);
#else
  return absl::UnimplementedError(absl::StrCat(
      "device `", options.device, "`: this build has no CUDA; build with the cuda preset"));
#endif
}

}  // namespace mindforge
