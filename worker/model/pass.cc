#include "worker/model/pass.h"

#include <ATen/ops/mm.h>

#include <type_traits>

#include "worker/model/device.h"
#include "worker/model/plain_attention.h"

namespace mindforge {

template <typename T>
Pass<T>::Pass(const Minimind& model)
    : config(model.config()),
      options(model.options()),
      device(model.device()),
      sizes(config, options.lora_rank),
      offsets(sizes, config.tie_word_embeddings),
      kernels(KernelsOf<T>(device)),
      float_kernels(KernelsOf<float>(device)),
      buffers(sizes, device, ToScalarType(options.compute), config.dropout > 0),
      model_(model),
      trained_offset_(model.trained_offset()) {}

template <typename T>
void Pass<T>::Begin(bool is_training, const PassOptions& pass_options,
                    const at::Tensor& document_ids, const at::Tensor& mask) {
  training = is_training;
  pass = pass_options;
  parallel = ParallelOf(device);
  auxiliary_loss = 0;
  buffers.Resize(rows.size, rows.most);
  if (rope_.positions < rows.longest) {
    rope_ = MakeRopeTables(config, rows.longest);
    sent_rope_.Add(rope_.cos, &arrays.rope_cos);
    sent_rope_.Add(rope_.sin, &arrays.rope_sin);
    sent_rope_.Send(device);
  }
  sent_rows_.Add(rows.starts, &arrays.starts);
  sent_rows_.Add(rows.ids, &arrays.ids);
  sent_rows_.Add(rows.positions, &arrays.positions);
  sent_rows_.Add(rows.rows, &arrays.rows);
  sent_rows_.Add(rows.first_key, &arrays.first_key);
  sent_rows_.Add(rows.logit_rows, &arrays.logit_rows);
  sent_rows_.Add(rows.logit_places, &arrays.logit_places);
  sent_rows_.Add(rows.logit_targets, &arrays.logit_targets);
  sent_rows_.Add(rows.logit_mask, &arrays.logit_mask);
  sent_rows_.Send(device);
  key_mask_ = mask.defined() ? mask.to(device) : mask;
  arrays.key_mask =
      mask.defined() ? static_cast<const uint8_t*>(key_mask_.const_data_ptr()) : nullptr;
  if (plain_attention()) visible = VisiblePairs(rows.longest, device, document_ids, mask);
}

template <typename T>
void Pass<T>::Multiply(at::Tensor out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
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
at::Tensor Pass<T>::Weights(int64_t offset, int64_t out, int64_t in) const {
  const at::Tensor& flat = model_.compute_parameters().defined() ? model_.compute_parameters()
                                                                 : model_.flat_parameters();
  return flat.narrow(0, offset, out * in).view({out, in});
}

template <typename T>
float* Pass<T>::Gradient(int64_t offset) const {
  return offset < trained_offset_ ? nullptr : Floats(gradient) + (offset - trained_offset_);
}

template <typename T>
void Pass<T>::WeightGradient(const at::Tensor& left, const at::Tensor& right, int64_t offset) {
  if (offset < trained_offset_) return;
  const int64_t size = left.size(1) * right.size(1);
  at::Tensor target = gradient.narrow(0, offset - trained_offset_, size);
  if (left.size(0) == 0) {
    target.zero_();
    return;
  }
  at::Tensor matrix = target.view({left.size(1), right.size(1)});
  if constexpr (std::is_same_v<T, float>) {
    Multiply(matrix, left.t(), right);
  } else if (device.is_cuda()) {
    at::mm_out(matrix, left.t(), right, at::kFloat);
  } else {
    const at::Tensor product = buffers.product.narrow(0, 0, size).view_as(matrix);
    Multiply(product, left.t(), right);
    kernels.to_float(parallel, size, Data(product), Floats(target));
  }
}

template <typename T>
void Pass<T>::AddNorm(const float* residual, const T* delta, int64_t offset, const at::Tensor& h,
                      const at::Tensor& rstd, const at::Tensor& y) const {
  kernels.add_norm(parallel, rows.size, sizes.hidden, residual, delta, Master(offset),
                   static_cast<float>(config.rms_norm_eps), Floats(h), Floats(rstd), Data(y));
}

template <typename T>
void Pass<T>::NormBackward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& rstd,
                           int64_t offset, bool accumulate) {
  T* cast = std::is_same_v<T, float> ? nullptr : Data(buffers.dh_cast);
  kernels.norm_backward(parallel, rows.size, sizes.hidden, Data(dy), Floats(h), Floats(rstd),
                        Master(offset), accumulate, Floats(buffers.dh), cast, Gradient(offset),
                        Floats(buffers.partials));
}

template <typename T>
void Pass<T>::AddAdapter(const AdapterOffsets& adapter, const at::Tensor& x, at::Tensor y) {
  if (!adapter.present()) return;
  at::Tensor low = buffers.low_rank.narrow(0, 0, x.size(0));
  Multiply(low, x, Weights(adapter.a, sizes.rank, x.size(1)).t());
  Multiply(y, low, Weights(adapter.b, y.size(1), sizes.rank).t(), /*accumulate=*/true);
}

template <typename T>
void Pass<T>::AdapterInputGradient(const AdapterOffsets& adapter, const at::Tensor& dy,
                                   at::Tensor dx) {
  if (!adapter.present()) return;
  at::Tensor low = buffers.low_rank.narrow(0, 0, dy.size(0));
  Multiply(low, dy, Weights(adapter.b, dy.size(1), sizes.rank));
  Multiply(dx, low, Weights(adapter.a, sizes.rank, dx.size(1)), /*accumulate=*/true);
}

template <typename T>
void Pass<T>::AdapterGradient(const AdapterOffsets& adapter, const at::Tensor& x,
                              const at::Tensor& dy) {
  if (!adapter.present()) return;
  at::Tensor low = buffers.low_rank.narrow(0, 0, x.size(0));
  Multiply(low, x, Weights(adapter.a, sizes.rank, x.size(1)).t());
  WeightGradient(dy, low, adapter.b);
  Multiply(low, dy, Weights(adapter.b, dy.size(1), sizes.rank));
  WeightGradient(low, x, adapter.a);
}

template <typename T>
DropoutSite Pass<T>::Site(int64_t layer, DropoutPlace place) const {
  DropoutSite site;
  site.key = pass.dropout_key;
  site.stream = DropoutStream(layer, place);
  site.threshold = DropoutThreshold(config.dropout);
  site.scale = static_cast<float>(1.0 / (1.0 - config.dropout));
  return site;
}

template <typename T>
void Pass<T>::Drop(int64_t layer, DropoutPlace place, int64_t index, const at::Tensor& x,
                   const at::Tensor& y) const {
  kernels.dropout(parallel, rows.size, sizes.hidden, Places(), Site(layer, place), index, Data(x),
                  Data(y));
}

template <typename T>
const at::Tensor& Pass<T>::OutputGradient(int64_t layer, DropoutPlace place, int64_t index) const {
  if (!dropping()) return buffers.dh_cast;
  Drop(layer, place, index, buffers.dh_cast, buffers.dropped);
  return buffers.dropped;
}

template <typename T>
void Pass<T>::GatherRows(const int32_t* tokens, const at::Tensor& x, const at::Tensor& out) const {
  RowGather gather;
  gather.slots = out.size(0);
  gather.columns = sizes.hidden;
  gather.tokens = tokens;
  kernels.gather_rows(parallel, gather, Data(x), Data(out));
}

template <typename T>
void Pass<T>::ClearFilling(const at::Tensor& x) const {
  if (rows.size > rows.tokens) x.narrow(0, rows.tokens, rows.size - rows.tokens).zero_();
}

#define MINDFORGE_INSTANTIATE(T) template class Pass<T>;
MINDFORGE_FOR_COMPUTE_TYPES(MINDFORGE_INSTANTIATE)

}  // namespace mindforge
