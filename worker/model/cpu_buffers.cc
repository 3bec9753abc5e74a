#include "worker/model/cpu_buffers.h"

#include <ATen/Functions.h>

#include <algorithm>

#include "worker/kernels/train_kernels.h"

namespace mindforge {

void CpuBuffers::Add(at::Tensor* view, at::ScalarType type, int64_t columns) {
  slots_.push_back({view, at::empty({capacity_, columns}, type), columns});
}

void CpuBuffers::Allocate(int64_t tokens) {
  capacity_ = tokens;
  slots_.clear();
  layers.assign(sizes_.layers, {});
  for (LayerBuffers& layer : layers) {
    Add(&layer.h1, at::kFloat, sizes_.hidden);
    Add(&layer.rstd1, at::kFloat, 1);
    Add(&layer.x1, type_, sizes_.hidden);
    Add(&layer.qkv, type_, sizes_.qkv);
    Add(&layer.attention, type_, sizes_.attention);
    Add(&layer.log2_sum, at::kFloat, sizes_.heads);
    Add(&layer.h2, at::kFloat, sizes_.hidden);
    Add(&layer.rstd2, at::kFloat, 1);
    Add(&layer.x2, type_, sizes_.hidden);
    Add(&layer.gate_up, type_, 2 * sizes_.inner);
  }
  Add(&h, at::kFloat, sizes_.hidden);
  Add(&rstd, at::kFloat, 1);
  Add(&row_loss, at::kFloat, 1);
  Add(&dh, at::kFloat, sizes_.hidden);
  Add(&logits, type_, sizes_.vocab);
  for (at::Tensor* wide : {&x, &x_listed, &dx_listed, &delta, &dx}) Add(wide, type_, sizes_.hidden);
  for (at::Tensor* wide : {&inner, &dinner}) Add(wide, type_, sizes_.inner);
  Add(&dattention, type_, sizes_.attention);
  Add(&dqkv, type_, sizes_.qkv);
  if (type_ != at::kFloat) Add(&dh_cast, type_, sizes_.hidden);
  partials = at::empty({NormPartials(tokens), sizes_.hidden}, at::kFloat);
  if (type_ != at::kFloat && !product.defined()) {
    const int64_t largest =
        sizes_.hidden * std::max({sizes_.vocab, 2 * sizes_.inner, sizes_.qkv, sizes_.attention});
    product = at::empty({largest}, type_);
  }
}

void CpuBuffers::Resize(int64_t tokens) {
  if (tokens == tokens_) return;
  if (tokens > capacity_) Allocate(tokens);
  tokens_ = tokens;
  for (const Slot& slot : slots_) *slot.view = slot.storage.narrow(0, 0, tokens);
  if (type_ == at::kFloat) dh_cast = dh;
}

float* CpuBuffers::Workspace(int64_t floats) {
  if (!workspace_.defined() || workspace_.numel() < floats) {
    workspace_ = at::empty({floats}, at::kFloat);
  }
  return workspace_.mutable_data_ptr<float>();
}

}  // namespace mindforge
