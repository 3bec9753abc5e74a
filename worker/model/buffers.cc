#include "worker/model/buffers.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "worker/kernels/train_kernels.h"

namespace mindforge {

Buffers::Buffers(const ModelSizes& sizes, c10::Device device, at::ScalarType type, bool dropout)
    : sizes_(sizes), device_(device), type_(type), dropout_(dropout) {}

at::Tensor Buffers::Empty(at::IntArrayRef shape, at::ScalarType type) const {
  return at::empty(shape, at::TensorOptions().device(device_).dtype(type));
}

int64_t Buffers::Count(Rows rows, int64_t tokens) const {
  const int64_t slots =
      ExpertSlots::MostSlots(tokens, sizes_.experts, sizes_.top_k, slot_multiple());
  switch (rows) {
    case Rows::kTokens:
      return tokens;
    case Rows::kSlots:
      return slots;
    case Rows::kMost:
      break;
  }
  return std::max(tokens, slots);
}

void Buffers::Add(at::Tensor* view, at::ScalarType type, int64_t columns, Rows rows) {
  views_.push_back({view, Empty({Count(rows, capacity_), columns}, type), rows});
}

void Buffers::AddLayer(LayerBuffers& layer) {
  Add(&layer.h1, at::kFloat, sizes_.hidden);
  Add(&layer.rstd1, at::kFloat, 1);
  Add(&layer.x1, type_, sizes_.hidden);
  if (sizes_.qk_norm) Add(&layer.projected, type_, sizes_.qkv);
  Add(&layer.qkv, type_, sizes_.qkv);
  Add(&layer.attention, type_, sizes_.attention);
  Add(&layer.log2_sum, at::kFloat, sizes_.heads);
  Add(&layer.h2, at::kFloat, sizes_.hidden);
  Add(&layer.rstd2, at::kFloat, 1);
  Add(&layer.x2, type_, sizes_.hidden);
  Add(&layer.gate_up, type_, 2 * sizes_.inner, sizes_.experts > 0 ? Rows::kSlots : Rows::kTokens);
  layer.shared_gate_up.resize(sizes_.shared);
  for (at::Tensor& shared : layer.shared_gate_up) Add(&shared, type_, 2 * sizes_.inner);
}

void Buffers::Allocate(int64_t tokens) {
  capacity_ = tokens;
  for (const View& view : views_) view.view->reset();  // gone before the larger ones come
  views_.clear();
  layers.resize(sizes_.layers);
  for (LayerBuffers& layer : layers) AddLayer(layer);
  Add(&h, at::kFloat, sizes_.hidden);
  Add(&rstd, at::kFloat, 1);
  Add(&row_loss, at::kFloat, 1);
  Add(&dh, at::kFloat, sizes_.hidden);
  Add(&logits, type_, sizes_.vocab);
  for (at::Tensor* wide : {&x, &delta, &dx}) Add(wide, type_, sizes_.hidden);
  Add(&inner, type_, sizes_.inner, Rows::kMost);
  Add(&dattention, type_, sizes_.attention);
  Add(&dqkv, type_, sizes_.qkv);
  if (type_ != at::kFloat) Add(&dh_cast, type_, sizes_.hidden);
  if (dropout_) Add(&dropped, type_, sizes_.hidden);
  if (sizes_.rank > 0) Add(&low_rank, type_, sizes_.rank, Rows::kMost);
  if (sizes_.experts > 0) {
    for (at::Tensor* wide : {&x_slots, &y_slots}) Add(wide, type_, sizes_.hidden, Rows::kSlots);
    Add(&d_slot_weights, at::kFloat, 1, Rows::kSlots);
    Add(&d_router, at::kFloat, sizes_.experts);
  }
  partials =
      Empty({NormPartials(tokens), std::max(sizes_.hidden, 2 * sizes_.head_dim)}, at::kFloat);
  if (device_.is_cpu() && type_ != at::kFloat && !product.defined()) {
    const int64_t largest =
        sizes_.hidden * std::max({sizes_.vocab, 2 * sizes_.inner, sizes_.qkv, sizes_.attention});
    product = Empty({largest}, type_);
  }
}

void Buffers::Resize(int64_t tokens, int64_t most) {
  if (tokens == tokens_) return;
  if (tokens > capacity_) Allocate(std::max(tokens, most));
  tokens_ = tokens;
  for (const View& view : views_) {
    *view.view = view.storage.narrow(0, 0, Count(view.rows, tokens));
  }
  if (type_ == at::kFloat) dh_cast = dh;
}

float* Buffers::Workspace(int64_t floats) {
  if (!workspace_.defined() || workspace_.numel() < floats) {
    workspace_ = Empty({floats}, at::kFloat);
  }
  return workspace_.mutable_data_ptr<float>();
}

}  // namespace mindforge
