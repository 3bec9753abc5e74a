// The mixture of experts. Tokens' rows are copied to slots sorted by expert, so each
// expert is a few dense products over its slots. An expert's weight for a token is applied before
// its down projection: the backward of the weight then needs nothing that is not at hand there.
#include "worker/model/experts.h"

#include "worker/model/swiglu.h"

namespace mindforge {
namespace {

template <typename T>
RouterShape Router(const Pass<T>& pass) {
  return {pass.rows.tokens, pass.sizes.hidden, pass.sizes.experts, pass.sizes.top_k,
          pass.config.NormalizesTopK()};
}

// An expert's rows of a tensor of slots.
at::Tensor SlotsOf(const Routing& routing, int64_t expert, const at::Tensor& x) {
  const std::vector<int64_t>& starts = routing.slots.starts;
  return x.narrow(0, starts[expert], starts[expert + 1] - starts[expert]);
}

bool Idle(const Routing& routing, int64_t expert) { return routing.slots.used[expert] == 0; }

template <typename T>
void Gather(const Pass<T>& pass, const Routing& routing, const DropoutSite* dropout,
            const at::Tensor& x, const at::Tensor& out) {
  RowGather gather;
  gather.slots = routing.slots.size();
  gather.columns = pass.sizes.hidden;
  gather.tokens = routing.arrays().slot_tokens;
  gather.dropout = dropout;
  gather.places = pass.Places();
  gather.experts = routing.arrays().slot_experts;
  pass.kernels.gather_rows(pass.parallel, gather, pass.Data(x), pass.Data(out));
}

// The sum of y_slots' rows of each token, on top of `base`.
template <typename T>
RowCombine<T> Combine(const Pass<T>& pass, const Routing& routing, const T* base) {
  RowCombine<T> combine;
  combine.tokens = pass.rows.tokens;
  combine.columns = pass.sizes.hidden;
  combine.top_k = pass.sizes.top_k;
  combine.slots = routing.arrays().slots;
  combine.x = pass.Data(pass.buffers.y_slots);
  combine.base = base;
  combine.places = pass.Places();
  combine.chosen = routing.arrays().chosen;
  return combine;
}

template <typename T>
void ChooseExperts(Pass<T>& pass, int64_t layer) {
  LayerBuffers& b = pass.buffers.layers[layer];
  Routing& routing = b.routing;
  const ModelSizes& s = pass.sizes;
  const bool balanced = pass.training && pass.config.aux_loss_alpha != 0;
  routing.Resize(pass.device, pass.rows.tokens, s.experts, s.top_k);
  pass.kernels.route(pass.parallel, Router(pass), pass.Data(b.x2),
                     pass.Master(pass.offsets.layers[layer].router), routing.arrays().scores,
                     routing.arrays().chosen, routing.arrays().weights);
  routing.Fetch(pass.device, /*scores=*/balanced);
  routing.slots.Sort(s.experts, s.top_k, pass.buffers.slot_multiple());
  if (balanced) {
    pass.auxiliary_loss += SetBalance(BalanceOf(pass.config), pass.rows.batch,
                                      pass.rows.starts.data(), pass.pass.loss_scale, routing.slots);
  }
  routing.Send(pass.device);
}

// delta = the shared experts' sum.
template <typename T>
void SharedForward(Pass<T>& pass, int64_t layer) {
  Buffers& b = pass.buffers;
  const at::Tensor inner = b.inner.narrow(0, 0, pass.rows.size);
  for (int64_t i = 0; i < pass.sizes.shared; ++i) {
    const MlpOffsets& at = pass.offsets.layers[layer].shared[i];
    const at::Tensor& gate_up = b.layers[layer].shared_gate_up[i];
    at::Tensor& out = i == 0 ? b.delta : b.dx;
    SwigluUp(pass, at, b.layers[layer].x2, gate_up);
    pass.kernels.swiglu(pass.parallel, pass.rows.size, pass.sizes.inner, nullptr,
                        pass.Data(gate_up), pass.Data(inner));
    SwigluDown(pass, at, inner, out);
    if (pass.dropping()) {
      pass.Drop(layer, DropoutPlace::kMlpOutput, pass.sizes.experts + i, out, out);
    }
    if (i > 0) b.delta.add_(out);
  }
}

// dx = the shared experts' share.
template <typename T>
void SharedBackward(Pass<T>& pass, int64_t layer) {
  Buffers& b = pass.buffers;
  const at::Tensor inner = b.inner.narrow(0, 0, pass.rows.size);
  for (int64_t i = 0; i < pass.sizes.shared; ++i) {
    const MlpOffsets& at = pass.offsets.layers[layer].shared[i];
    const at::Tensor& gate_up = b.layers[layer].shared_gate_up[i];
    const at::Tensor& dy =
        pass.OutputGradient(layer, DropoutPlace::kMlpOutput, pass.sizes.experts + i);
    SwigluDownBackward(pass, at, dy, inner);
    pass.kernels.swiglu_backward(pass.parallel, pass.rows.size, pass.sizes.inner, nullptr,
                                 pass.Data(inner), pass.Data(gate_up), pass.Data(inner), nullptr);
    SwigluDownGradient(pass, at, dy, inner);
    SwigluUpBackward(pass, at, gate_up, /*accumulate=*/i > 0, b.dx);
    SwigluUpGradient(pass, at, gate_up, b.layers[layer].x2);
  }
}

// dx += the router's and the routed experts' shares; the router's gradient.
template <typename T>
void RouterBackward(Pass<T>& pass, int64_t layer) {
  Buffers& b = pass.buffers;
  const Routing& routing = b.layers[layer].routing;
  const int64_t router = pass.offsets.layers[layer].router;
  RouterGradient gradient;
  gradient.scores = routing.arrays().scores;
  gradient.chosen = routing.arrays().chosen;
  gradient.weights = routing.arrays().weights;
  gradient.slots = routing.arrays().slots;
  gradient.d_weights = Floats(b.d_slot_weights);
  gradient.balance = pass.config.aux_loss_alpha == 0 ? nullptr : routing.arrays().balance;
  gradient.rows = pass.arrays.rows;
  pass.kernels.route_backward(pass.parallel, Router(pass), gradient, Floats(b.d_router));
  if (float* target = pass.Gradient(router); target != nullptr) {
    pass.kernels.router_weight_gradient(pass.parallel, Router(pass), Floats(b.d_router),
                                        pass.Data(b.layers[layer].x2), target);
  }
  RowCombine<T> combine = Combine(pass, routing, pass.sizes.shared > 0 ? pass.Data(b.dx) : nullptr);
  combine.experts = pass.sizes.experts;
  combine.router = pass.Master(router);
  combine.d_logits = Floats(b.d_router);
  pass.kernels.combine_rows(pass.parallel, combine, pass.Data(b.dx));
  if (pass.sizes.shared == 0) pass.ClearFilling(b.dx);
}

}  // namespace

template <typename T>
void ExpertsForward(Pass<T>& pass, int64_t layer) {
  Buffers& b = pass.buffers;
  const at::Tensor& gate_up = b.layers[layer].gate_up;
  const Routing& routing = b.layers[layer].routing;
  const std::vector<MlpOffsets>& experts = pass.offsets.layers[layer].experts;
  ChooseExperts(pass, layer);
  SharedForward(pass, layer);
  Gather(pass, routing, nullptr, b.layers[layer].x2, b.x_slots);
  for (int64_t e = 0; e < pass.sizes.experts; ++e) {
    if (Idle(routing, e)) continue;
    SwigluUp(pass, experts[e], SlotsOf(routing, e, b.x_slots), SlotsOf(routing, e, gate_up));
  }
  pass.kernels.swiglu(pass.parallel, routing.slots.size(), pass.sizes.inner,
                      routing.arrays().slot_weights, pass.Data(gate_up), pass.Data(b.inner));
  for (int64_t e = 0; e < pass.sizes.experts; ++e) {
    if (Idle(routing, e)) continue;
    SwigluDown(pass, experts[e], SlotsOf(routing, e, b.inner), SlotsOf(routing, e, b.y_slots));
  }
  RowCombine<T> combine =
      Combine(pass, routing, pass.sizes.shared > 0 ? pass.Data(b.delta) : nullptr);
  const DropoutSite site = pass.Site(layer, DropoutPlace::kMlpOutput);
  if (pass.dropping()) combine.dropout = &site;
  pass.kernels.combine_rows(pass.parallel, combine, pass.Data(b.delta));
  if (pass.sizes.shared == 0) pass.ClearFilling(b.delta);
}

template <typename T>
void ExpertsBackward(Pass<T>& pass, int64_t layer) {
  Buffers& b = pass.buffers;
  const at::Tensor& gate_up = b.layers[layer].gate_up;  // becomes its gradient
  const Routing& routing = b.layers[layer].routing;
  const std::vector<MlpOffsets>& experts = pass.offsets.layers[layer].experts;
  SharedBackward(pass, layer);
  const DropoutSite site = pass.Site(layer, DropoutPlace::kMlpOutput);
  Gather(pass, routing, pass.dropping() ? &site : nullptr, b.dh_cast, b.y_slots);
  Gather(pass, routing, nullptr, b.layers[layer].x2, b.x_slots);
  for (int64_t e = 0; e < pass.sizes.experts; ++e) {
    if (Idle(routing, e)) continue;
    SwigluDownBackward(pass, experts[e], SlotsOf(routing, e, b.y_slots),
                       SlotsOf(routing, e, b.inner));
  }
  pass.kernels.swiglu_backward(pass.parallel, routing.slots.size(), pass.sizes.inner,
                               routing.arrays().slot_weights, pass.Data(b.inner),
                               pass.Data(gate_up), pass.Data(b.inner), Floats(b.d_slot_weights));
  for (int64_t e = 0; e < pass.sizes.experts; ++e) {
    const at::Tensor d_gate_up = SlotsOf(routing, e, gate_up);
    const at::Tensor y = SlotsOf(routing, e, b.y_slots);  // dy, then dx
    SwigluDownGradient(pass, experts[e], y, SlotsOf(routing, e, b.inner));
    SwigluUpGradient(pass, experts[e], d_gate_up, SlotsOf(routing, e, b.x_slots));
    if (!Idle(routing, e)) {
      SwigluUpBackward(pass, experts[e], d_gate_up, /*accumulate=*/false, y);
    }
  }
  RouterBackward(pass, layer);
}

#define MINDFORGE_INSTANTIATE(T)                   \
  template void ExpertsForward(Pass<T>&, int64_t); \
  template void ExpertsBackward(Pass<T>&, int64_t);
MINDFORGE_FOR_COMPUTE_TYPES(MINDFORGE_INSTANTIATE)

}  // namespace mindforge
