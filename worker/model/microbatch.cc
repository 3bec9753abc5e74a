#include "worker/model/microbatch.h"

#include <ATen/Functions.h>

#include "absl/strings/str_cat.h"

namespace mindforge {
namespace {

absl::Status CheckLike(const char* what, const at::Tensor& x, const at::Tensor& ids) {
  if (x.sizes() != ids.sizes() || !x.is_contiguous()) {
    return absl::InvalidArgumentError(absl::StrCat("microbatch ", what, " must be contiguous [",
                                                   ids.size(0), ", ", ids.size(1),
                                                   "] like input_ids"));
  }
  return absl::OkStatus();
}

bool IsMask(const at::Tensor& x) {
  return x.scalar_type() == at::kByte || x.scalar_type() == at::kBool;
}

}  // namespace

absl::Status CheckTokens(const ModelConfig& config, const char* what, const at::Tensor& ids) {
  if (!ids.defined() || ids.dim() != 2 || ids.numel() == 0 || !ids.is_contiguous() ||
      ids.scalar_type() != at::kLong) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " must be a contiguous, non-empty int64 tensor [batch, length]"));
  }
  if (ids.size(1) > config.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " holds rows of ", ids.size(1), " tokens, more than ",
                     "max_position_embeddings ", config.max_position_embeddings));
  }
  if (!ids.is_cpu()) return absl::OkStatus();
  const auto* data = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (data[i] < 0 || data[i] >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " holds token id ", data[i], " at row ", i / ids.size(1),
                       ", position ", i % ids.size(1), "; vocab_size is ", config.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGradient(const Minimind& model, const at::Tensor& gradient) {
  if (!gradient.defined() || gradient.scalar_type() != at::kFloat || !gradient.is_contiguous() ||
      gradient.numel() != model.trained_count() || gradient.device() != model.device()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the gradient buffer must be contiguous float32 of ", model.trained_count(),
                     " elements on ", model.device().str()));
  }
  return absl::OkStatus();
}

absl::Status CheckMicrobatch(const Minimind& model, const Microbatch& microbatch) {
  const ModelConfig& config = model.config();
  absl::Status status = CheckTokens(config, "input_ids", microbatch.input_ids);
  if (status.ok()) status = CheckTokens(config, "targets", microbatch.targets);
  if (!status.ok()) return status;
  const at::Tensor& ids = microbatch.input_ids;
  status = CheckLike("targets", microbatch.targets, ids);
  if (!status.ok()) return status;
  if (!microbatch.mask.defined() || !IsMask(microbatch.mask)) {
    return absl::InvalidArgumentError("microbatch mask must be uint8 or bool");
  }
  status = CheckLike("mask", microbatch.mask, ids);
  if (!status.ok()) return status;
  if (microbatch.document_ids.defined()) {
    if (microbatch.document_ids.scalar_type() != at::kInt) {
      return absl::InvalidArgumentError("microbatch document_ids must be int32");
    }
    status = CheckLike("document_ids", microbatch.document_ids, ids);
    if (!status.ok()) return status;
  }
  for (const at::Tensor* x : {&ids, &microbatch.targets, &microbatch.mask}) {
    if (x->is_cpu() || x->device() == model.device()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a microbatch must lie on the CPU or on the model's device ",
                     model.device().str(), ", not on ", x->device().str()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Microbatch> CheckedOnHost(const Minimind& model, const Microbatch& microbatch) {
  absl::Status status = CheckMicrobatch(model, microbatch);
  if (!status.ok()) return status;
  Microbatch host = microbatch;
  bool moved = false;
  for (at::Tensor* x : {&host.input_ids, &host.targets, &host.mask, &host.document_ids}) {
    if (!x->defined() || x->is_cpu()) continue;
    *x = x->cpu();
    moved = true;
  }
  if (moved) status = CheckMicrobatch(model, host);  // now the ids as well
  if (!status.ok()) return status;
  return host;
}

absl::Status CheckLogitsArguments(const ModelConfig& config, const at::Tensor& input_ids,
                                  const at::Tensor& padding_mask, int64_t logits_to_keep) {
  const absl::Status status = CheckTokens(config, "input_ids", input_ids);
  if (!status.ok()) return status;
  if (logits_to_keep < 0 || logits_to_keep > input_ids.size(1)) {
    return absl::InvalidArgumentError(absl::StrCat("logits_to_keep must lie in 0 … ",
                                                   input_ids.size(1), ", got ", logits_to_keep));
  }
  if (!padding_mask.defined()) return absl::OkStatus();
  if (!IsMask(padding_mask))
    return absl::InvalidArgumentError("padding_mask must be uint8 or bool");
  return CheckLike("padding_mask", padding_mask, input_ids);
}

std::vector<int32_t> FirstKeys(const at::Tensor& document_ids) {
  const at::Tensor host = document_ids.cpu();
  const auto* ids = host.const_data_ptr<int32_t>();
  const int64_t length = host.size(1);
  std::vector<int32_t> first(host.numel());
  for (int64_t i = 0; i < host.numel(); ++i) {
    const bool same = i % length != 0 && ids[i] == ids[i - 1];
    first[i] = same ? first[i - 1] : static_cast<int32_t>(i % length);
  }
  return first;
}

}  // namespace mindforge
