#include "worker/model/cpu_pass.h"

#include <ATen/ops/mm.h>

#include <cstring>
#include <type_traits>

#include "worker/model/plain_attention.h"
#include "worker/model/torch_parallel.h"

namespace mindforge {

template <typename T>
CpuPass<T>::CpuPass(const Minimind& model)
    : config(model.config()),
      options(model.options()),
      sizes(config, options.lora_rank),
      offsets(sizes, config.tie_word_embeddings),
      kernels(GetTrainKernels<T>(DetectCpuIsa())),
      float_kernels(GetTrainKernels<float>(DetectCpuIsa())),
      parallel(TorchParallel()),
      buffers(sizes, ToScalarType(options.compute), config.dropout > 0),
      model_(model),
      trained_offset_(model.trained_offset()) {}

template <typename T>
void CpuPass<T>::Begin(bool is_training, const PassOptions& pass_options,
                       const at::Tensor& document_ids, const at::Tensor& mask) {
  training = is_training;
  pass = pass_options;
  auxiliary_loss = 0;
  buffers.Resize(rows.size);
  if (rope.positions < rows.longest) rope = MakeRopeTables(config, rows.longest);
  key_mask = mask.defined() ? static_cast<const uint8_t*>(mask.const_data_ptr()) : nullptr;
  if (plain_attention()) {
    visible = VisiblePairs(rows.longest, model_.device(), document_ids, mask);
  }
}

template <typename T>
void CpuPass<T>::Multiply(at::Tensor out, const at::Tensor& a, const at::Tensor& b,
                          bool accumulate) {
  if constexpr (std::is_same_v<T, float>) {
    if (kernels.prefers_product) {
      const ProductShape shape{a.size(0),   b.size(1),   a.size(1),     a.stride(0), a.stride(1),
                               b.stride(0), b.stride(1), out.stride(0), accumulate};
      kernels.product(parallel, shape, Floats(a), Floats(b), Floats(out),
                      buffers.Workspace(kernels.product_workspace(shape)));
      return;
    }
  }
  if (accumulate) {
    out.addmm_(a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

template <typename T>
at::Tensor CpuPass<T>::Weights(int64_t offset, int64_t out, int64_t in) const {
  const at::Tensor& flat = model_.compute_parameters().defined() ? model_.compute_parameters()
                                                                 : model_.flat_parameters();
  return flat.narrow(0, offset, out * in).view({out, in});
}

template <typename T>
float* CpuPass<T>::Gradient(int64_t offset) const {
  return offset < trained_offset_ ? nullptr : Floats(gradient) + (offset - trained_offset_);
}

template <typename T>
void CpuPass<T>::WeightGradient(const at::Tensor& left, const at::Tensor& right, int64_t offset) {
  if (offset < trained_offset_) return;
  const int64_t size = left.size(1) * right.size(1);
  at::Tensor target = gradient.narrow(0, offset - trained_offset_, size);
  if (left.size(0) == 0) {
    target.zero_();
    return;
  }
  at::Tensor out = (std::is_same_v<T, float> ? target : buffers.product.narrow(0, 0, size))
                       .view({left.size(1), right.size(1)});
  Multiply(out, left.t(), right);
  if constexpr (!std::is_same_v<T, float>) {
    kernels.to_float(parallel, size, Data(out), Floats(target));
  }
}

template <typename T>
void CpuPass<T>::NormBackward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& rstd,
                              int64_t offset, bool accumulate) {
  T* cast = std::is_same_v<T, float> ? nullptr : Data(buffers.dh_cast);
  kernels.norm_backward(parallel, rows.size, sizes.hidden, Data(dy), Floats(h), Floats(rstd),
                        Master(offset), accumulate, Floats(buffers.dh), cast, Gradient(offset),
                        Floats(buffers.partials));
}

template <typename T>
void CpuPass<T>::AddAdapter(const AdapterOffsets& adapter, const at::Tensor& x, at::Tensor y) {
  if (!adapter.present()) return;
  at::Tensor low = buffers.low_rank.narrow(0, 0, x.size(0));
  Multiply(low, x, Weights(adapter.a, sizes.rank, x.size(1)).t());
  Multiply(y, low, Weights(adapter.b, y.size(1), sizes.rank).t(), /*accumulate=*/true);
}

template <typename T>
void CpuPass<T>::AdapterInputGradient(const AdapterOffsets& adapter, const at::Tensor& dy,
                                      at::Tensor dx) {
  if (!adapter.present()) return;
  at::Tensor low = buffers.low_rank.narrow(0, 0, dy.size(0));
  Multiply(low, dy, Weights(adapter.b, dy.size(1), sizes.rank));
  Multiply(dx, low, Weights(adapter.a, sizes.rank, dx.size(1)), /*accumulate=*/true);
}

template <typename T>
void CpuPass<T>::AdapterGradient(const AdapterOffsets& adapter, const at::Tensor& x,
                                 const at::Tensor& dy) {
  if (!adapter.present()) return;
  at::Tensor low = buffers.low_rank.narrow(0, 0, x.size(0));
  Multiply(low, x, Weights(adapter.a, sizes.rank, x.size(1)).t());
  WeightGradient(dy, low, adapter.b);
  Multiply(low, dy, Weights(adapter.b, dy.size(1), sizes.rank));
  WeightGradient(low, x, adapter.a);
}

template <typename T>
DropoutSite CpuPass<T>::Site(int64_t layer, DropoutPlace place) const {
  DropoutSite site;
  site.key = pass.dropout_key;
  site.stream = DropoutStream(layer, place);
  site.threshold = DropoutThreshold(config.dropout);
  site.scale = static_cast<float>(1.0 / (1.0 - config.dropout));
  return site;
}

template <typename T>
void CpuPass<T>::Drop(int64_t layer, DropoutPlace place, int64_t index, const at::Tensor& x,
                      const at::Tensor& y) const {
  kernels.dropout(parallel, rows.size, sizes.hidden, Places(), Site(layer, place), index, Data(x),
                  Data(y));
}

template <typename T>
const at::Tensor& CpuPass<T>::OutputGradient(int64_t layer, DropoutPlace place,
                                             int64_t index) const {
  if (!dropping()) return buffers.dh_cast;
  Drop(layer, place, index, buffers.dh_cast, buffers.dropped);
  return buffers.dropped;
}

template <typename T>
void CpuPass<T>::ClearFilling(const at::Tensor& x) const {
  const int64_t row = x.size(1) * static_cast<int64_t>(sizeof(T));
  std::memset(static_cast<char*>(x.mutable_data_ptr()) + rows.tokens * row, 0,
              (rows.size - rows.tokens) * row);
}

template class CpuPass<float>;
template class CpuPass<Bf16>;

}  // namespace mindforge
