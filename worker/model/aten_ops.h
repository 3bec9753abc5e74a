// What the parts of the composed backend share: a pass's weights and gradient, products with
// adapters, norms. It does not know the order in which a model uses them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/model/aten_dropout.h"
#include "worker/model/dropout_place.h"
#include "worker/model/layout.h"

namespace mindforge {

// One forward, and perhaps its backward. T below is `type`, the dtype of the products.
struct AtenPass {
  const ModelSizes& sizes;
  const ModelConfig& config;
  at::ScalarType type;
  at::Tensor flat;             // f32 [P], master weights
  at::Tensor product;          // T [P], what products read
  int64_t trained_offset = 0;  // parameters before it get no gradient
  at::Tensor gradient;         // f32 [trained]; undefined without a backward
  bool training = false;       // dropout and auxiliary losses
  uint64_t dropout_key = 0;
  at::Tensor rows, positions;  // int64 [n], where each token stands; defined with dropout
  at::Tensor auxiliary_scale;  // f32 scalar on the device: what the gradient of the auxiliary
                               // losses is multiplied by
  std::vector<at::Tensor>* routing = nullptr;  // see MinimindOptions

  bool Drops() const { return training && config.dropout > 0; }
};

// What is kept at `place` of layer `layer` of the tokens at `rows` and `positions`, bool [tokens,
// columns]; undefined unless the pass drops. `index` tells experts apart.
at::Tensor KeepMask(const AtenPass& pass, int64_t layer, DropoutPlace place, int64_t index,
                    const at::Tensor& rows, const at::Tensor& positions, int64_t columns);
// The same of attention's probabilities: bool [batch, heads, length, length].
at::Tensor KeepProbabilities(const AtenPass& pass, int64_t layer, int64_t batch, int64_t length);

// A matrix as products read it, and a vector in float32.
at::Tensor Matrix(const AtenPass& pass, int64_t offset, int64_t rows, int64_t columns);
at::Tensor Vector(const AtenPass& pass, int64_t offset, int64_t size);

// gradient[offset …] as [left's columns, right's columns] = leftᵀ · right, where it is trained.
void WeightGradient(const AtenPass& pass, const at::Tensor& left, const at::Tensor& right,
                    int64_t offset);

// y += B(A x) for x [n, in], y [n, out], y a slice of a product perhaps; nothing without adapter.
void AddAdapter(const AtenPass& pass, const AdapterOffsets& adapter, const at::Tensor& x,
                const at::Tensor& y);
// Writes the gradients of A and B and adds the gradient of x to `dx` [n, in].
void AdapterBackward(const AtenPass& pass, const AdapterOffsets& adapter, const at::Tensor& x,
                     const at::Tensor& dy, const at::Tensor& dx);

// x [..., size] times its reciprocal root mean square and the weight at `offset`, in float32.
struct Normed {
  at::Tensor y;     // f32 [..., size]
  at::Tensor rstd;  // f32 [..., 1]
};
Normed RmsNorm(const AtenPass& pass, const at::Tensor& x, int64_t offset);
// The gradient of x, float32, and that of the weight into the pass's gradient. dy of any dtype.
at::Tensor RmsNormBackward(const AtenPass& pass, const at::Tensor& dy, const at::Tensor& x,
                           const at::Tensor& rstd, int64_t offset);

}  // namespace mindforge
