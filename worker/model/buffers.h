// Activations and scratch of the table's model, on its device, allocated when a microbatch is
// larger than any before and otherwise only viewed again.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "worker/model/layout.h"
#include "worker/model/routing.h"

namespace mindforge {

// What a layer's backward needs of its forward. n: tokens, m: slots, of which only as many as the
// routing uses are meant. T: the compute dtype.
struct LayerBuffers {
  at::Tensor h1;         // f32 [n, hidden], the residual stream before attention
  at::Tensor rstd1;      // f32 [n]
  at::Tensor x1;         // T [n, hidden], normed
  at::Tensor projected;  // T [n, qkv], with qk_norm: q, k, v before it
  at::Tensor qkv;        // T [n, qkv], after RoPE
  at::Tensor attention;  // T [n, attention]
  at::Tensor log2_sum;   // f32 [n · heads]
  at::Tensor h2;         // f32 [n, hidden], before the MLP
  at::Tensor rstd2;      // f32 [n]
  at::Tensor x2;         // T [n, hidden]
  at::Tensor gate_up;    // T [n, 2 · inner] of a dense model, [m, 2 · inner] of the experts
  std::vector<at::Tensor> shared_gate_up;  // T [n, 2 · inner] of each shared expert
  Routing routing;
};

class Buffers {
 public:
  Buffers(const ModelSizes& sizes, c10::Device device, at::ScalarType type, bool dropout);

  // Views everything for `tokens` tokens. `most`: what a microbatch of this shape may come to, so
  // that the next one needs no new memory.
  void Resize(int64_t tokens, int64_t most);
  // A float32 workspace of at least `floats`.
  float* Workspace(int64_t floats);
  // An expert's slots are filled up to a multiple of this: the library of bfloat16 products
  // prepares itself anew for each number of rows.
  int64_t slot_multiple() const { return type_ == at::kFloat ? 1 : 64; }

  std::vector<LayerBuffers> layers;
  at::Tensor h, rstd, x;  // after the last layer: f32, f32, T
  at::Tensor logits;      // T [n, vocab], then their gradient
  at::Tensor row_loss;    // f32 [n]
  at::Tensor delta;       // T [n, hidden], what a block adds to the residual stream
  at::Tensor dropped;     // T [n, hidden], the gradient of a block's dropped output
  at::Tensor inner;       // T [n or m, inner], or its gradient
  at::Tensor dh;          // f32 [n, hidden], gradient of the residual stream
  at::Tensor dh_cast;     // T, the same; dh itself when T is float32
  at::Tensor dx, dattention, dqkv;
  at::Tensor x_slots, y_slots;  // T [m, hidden], experts' inputs and outputs
  at::Tensor d_slot_weights;    // f32 [m]
  at::Tensor d_router;          // f32 [n, experts]
  at::Tensor low_rank;          // T [n or m, rank], between an adapter's matrices
  at::Tensor partials;          // f32, norms' weight gradients by block
  at::Tensor product;           // T, on the CPU: one weight gradient on its way to float32

 private:
  enum class Rows { kTokens, kSlots, kMost };
  struct View {
    at::Tensor* view;
    at::Tensor storage;
    Rows rows;
  };
  int64_t Count(Rows rows, int64_t tokens) const;
  void Add(at::Tensor* view, at::ScalarType type, int64_t columns, Rows rows = Rows::kTokens);
  void AddLayer(LayerBuffers& layer);
  at::Tensor Empty(at::IntArrayRef shape, at::ScalarType type) const;
  void Allocate(int64_t tokens);

  const ModelSizes sizes_;
  const c10::Device device_;
  const at::ScalarType type_;
  const bool dropout_;
  std::vector<View> views_;
  at::Tensor workspace_;
  int64_t capacity_ = 0;
  int64_t tokens_ = 0;
};

}  // namespace mindforge
