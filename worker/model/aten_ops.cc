#include "worker/model/aten_ops.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <array>

namespace mindforge {

at::Tensor KeepMask(const AtenPass& pass, int64_t layer, DropoutPlace place, int64_t index,
                    const at::Tensor& rows, const at::Tensor& positions, int64_t columns) {
  if (!pass.Drops()) return {};
  return DropoutMask({.key = pass.dropout_key,
                      .stream = DropoutStream(layer, place) + index,
                      .rows = rows,
                      .positions = positions,
                      .columns = columns},
                     pass.config.dropout);
}

at::Tensor KeepProbabilities(const AtenPass& pass, int64_t layer, int64_t batch, int64_t length) {
  if (!pass.Drops()) return {};
  const int64_t heads = pass.sizes.heads;
  const auto count = [&](int64_t size) { return at::arange(size, pass.rows.options()); };
  const std::array<int64_t, 3> shape = {batch, heads, length};
  return DropoutMask({.key = pass.dropout_key,
                      .stream = DropoutStream(layer, DropoutPlace::kProbabilities),
                      .streams = count(heads).view({1, -1, 1}).expand(shape).flatten(),
                      .rows = count(batch).view({-1, 1, 1}).expand(shape).flatten(),
                      .positions = count(length).view({1, 1, -1}).expand(shape).flatten(),
                      .columns = length},
                     pass.config.dropout)
      .unflatten(0, shape);
}

at::Tensor Matrix(const AtenPass& pass, int64_t offset, int64_t rows, int64_t columns) {
  return pass.product.narrow(0, offset, rows * columns).view({rows, columns});
}

at::Tensor Vector(const AtenPass& pass, int64_t offset, int64_t size) {
  return pass.flat.narrow(0, offset, size);
}

void WeightGradient(const AtenPass& pass, const at::Tensor& left, const at::Tensor& right,
                    int64_t offset) {
  if (offset < pass.trained_offset) return;
  at::Tensor target =
      pass.gradient.narrow(0, offset - pass.trained_offset, left.size(1) * right.size(1))
          .view({left.size(1), right.size(1)});
  if (left.scalar_type() == at::kFloat) {
    at::mm_out(target, left.t(), right);
  } else {
    target.copy_(at::mm(left.t(), right));
  }
}

void AddAdapter(const AtenPass& pass, const AdapterOffsets& adapter, const at::Tensor& x,
                const at::Tensor& y) {
  if (!adapter.present()) return;
  const at::Tensor inner = at::mm(x, Matrix(pass, adapter.a, pass.sizes.rank, x.size(1)).t());
  y.add_(at::mm(inner, Matrix(pass, adapter.b, y.size(1), pass.sizes.rank).t()));
}

void AdapterBackward(const AtenPass& pass, const AdapterOffsets& adapter, const at::Tensor& x,
                     const at::Tensor& dy, const at::Tensor& dx) {
  if (!adapter.present()) return;
  const at::Tensor a = Matrix(pass, adapter.a, pass.sizes.rank, x.size(1));
  const at::Tensor b = Matrix(pass, adapter.b, dy.size(1), pass.sizes.rank);
  const at::Tensor inner = at::mm(x, a.t());
  WeightGradient(pass, dy, inner, adapter.b);
  const at::Tensor dinner = at::mm(dy, b);
  WeightGradient(pass, dinner, x, adapter.a);
  dx.add_(at::mm(dinner, a));
}

Normed RmsNorm(const AtenPass& pass, const at::Tensor& x, int64_t offset) {
  const at::Tensor full = x.to(at::kFloat);
  Normed out;
  out.rstd = full.square().mean(-1, /*keepdim=*/true).add_(pass.config.rms_norm_eps).rsqrt_();
  out.y = (full * out.rstd).mul_(Vector(pass, offset, x.size(-1)));
  return out;
}

at::Tensor RmsNormBackward(const AtenPass& pass, const at::Tensor& dy, const at::Tensor& x,
                           const at::Tensor& rstd, int64_t offset) {
  const int64_t size = x.size(-1);
  const at::Tensor normal = x.to(at::kFloat) * rstd;
  const at::Tensor d = dy.to(at::kFloat);
  if (offset >= pass.trained_offset) {
    at::Tensor dw = pass.gradient.narrow(0, offset - pass.trained_offset, size);
    at::sum_out(dw, (d * normal).view({-1, size}), at::IntArrayRef{0});
  }
  const at::Tensor through = d * Vector(pass, offset, size);
  return (through - normal * (through * normal).mean(-1, /*keepdim=*/true)) * rstd;
}

}  // namespace mindforge
