// The mixture of experts on the CPU. Tokens' rows are copied to slots sorted by expert, so each
// expert is a few dense products over its slots. An expert's weight for a token is applied before
// its down projection: the backward of the weight then needs nothing that is not at hand there.
#include "worker/model/cpu_mlp.h"

namespace mindforge {
namespace {

template <typename T>
RouterShape Router(const CpuPass<T>& pass) {
  return {pass.rows.tokens, pass.sizes.hidden, pass.sizes.experts, pass.sizes.top_k,
          pass.config.NormalizesTopK()};
}

// An expert's rows of a tensor of slots.
at::Tensor SlotsOf(const ExpertSlots& routing, int64_t expert, const at::Tensor& x) {
  return x.narrow(0, routing.starts[expert], routing.starts[expert + 1] - routing.starts[expert]);
}

bool Idle(const ExpertSlots& routing, int64_t expert) { return routing.used[expert] == 0; }

template <typename T>
void Gather(const CpuPass<T>& pass, const ExpertSlots& routing, const DropoutSite* dropout,
            const at::Tensor& x, const at::Tensor& out) {
  RowGather gather;
  gather.slots = routing.size();
  gather.columns = pass.sizes.hidden;
  gather.tokens = routing.slot_tokens.data();
  gather.dropout = dropout;
  gather.places = pass.Places();
  gather.experts = routing.slot_experts.data();
  pass.kernels.gather_rows(pass.parallel, gather, pass.Data(x), pass.Data(out));
}

// The sum of y_slots' rows of each token, on top of `base`.
template <typename T>
RowCombine<T> Combine(const CpuPass<T>& pass, const ExpertSlots& routing, const T* base) {
  RowCombine<T> combine;
  combine.tokens = pass.rows.tokens;
  combine.columns = pass.sizes.hidden;
  combine.top_k = pass.sizes.top_k;
  combine.slots = routing.slots.data();
  combine.x = pass.Data(pass.buffers.y_slots);
  combine.base = base;
  combine.places = pass.Places();
  combine.chosen = routing.chosen.data();
  return combine;
}

template <typename T>
void ChooseExperts(CpuPass<T>& pass, int64_t layer) {
  LayerBuffers& b = pass.buffers.layers[layer];
  ExpertSlots& routing = b.routing;
  const ModelSizes& s = pass.sizes;
  routing.Resize(pass.rows.tokens, s.experts, s.top_k);
  pass.kernels.route(pass.parallel, Router(pass), pass.Data(b.x2),
                     pass.Master(pass.offsets.layers[layer].router), routing.scores.data(),
                     routing.chosen.data(), routing.weights.data());
  routing.Sort(s.experts, s.top_k, pass.buffers.slot_multiple());
  if (!pass.training || pass.config.aux_loss_alpha == 0) return;
  pass.auxiliary_loss += SetBalance(BalanceOf(pass.config), pass.rows.batch,
                                    pass.rows.starts.data(), pass.pass.loss_scale, routing);
}

// delta = the shared experts' sum.
template <typename T>
void SharedForward(CpuPass<T>& pass, int64_t layer) {
  CpuBuffers& b = pass.buffers;
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
void SharedBackward(CpuPass<T>& pass, int64_t layer) {
  CpuBuffers& b = pass.buffers;
  const at::Tensor inner = b.inner.narrow(0, 0, pass.rows.size);
  const at::Tensor d_inner = b.dinner.narrow(0, 0, pass.rows.size);
  for (int64_t i = 0; i < pass.sizes.shared; ++i) {
    const MlpOffsets& at = pass.offsets.layers[layer].shared[i];
    const at::Tensor& gate_up = b.layers[layer].shared_gate_up[i];
    const at::Tensor& dy =
        pass.OutputGradient(layer, DropoutPlace::kMlpOutput, pass.sizes.experts + i);
    SwigluDownBackward(pass, at, dy, d_inner);
    pass.kernels.swiglu_backward(pass.parallel, pass.rows.size, pass.sizes.inner, nullptr,
                                 pass.Data(d_inner), pass.Data(gate_up), pass.Data(inner), nullptr);
    SwigluDownGradient(pass, at, dy, inner);
    SwigluUpBackward(pass, at, gate_up, /*accumulate=*/i > 0, b.dx);
    SwigluUpGradient(pass, at, gate_up, b.layers[layer].x2);
  }
}

// dx += the router's and the routed experts' shares; the router's gradient.
template <typename T>
void RouterBackward(CpuPass<T>& pass, int64_t layer) {
  CpuBuffers& b = pass.buffers;
  const ExpertSlots& routing = b.layers[layer].routing;
  const int64_t router = pass.offsets.layers[layer].router;
  RouterGradient gradient;
  gradient.scores = routing.scores.data();
  gradient.chosen = routing.chosen.data();
  gradient.weights = routing.weights.data();
  gradient.slots = routing.slots.data();
  gradient.d_weights = Floats(b.d_slot_weights);
  gradient.balance = pass.config.aux_loss_alpha == 0 ? nullptr : routing.balance.data();
  gradient.rows = pass.rows.rows.data();
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
void ExpertsForward(CpuPass<T>& pass, int64_t layer) {
  CpuBuffers& b = pass.buffers;
  const at::Tensor& gate_up = b.layers[layer].gate_up;
  const ExpertSlots& routing = b.layers[layer].routing;
  const std::vector<MlpOffsets>& experts = pass.offsets.layers[layer].experts;
  ChooseExperts(pass, layer);
  SharedForward(pass, layer);
  Gather(pass, routing, nullptr, b.layers[layer].x2, b.x_slots);
  for (int64_t e = 0; e < pass.sizes.experts; ++e) {
    if (Idle(routing, e)) continue;
    SwigluUp(pass, experts[e], SlotsOf(routing, e, b.x_slots), SlotsOf(routing, e, gate_up));
  }
  pass.kernels.swiglu(pass.parallel, routing.size(), pass.sizes.inner, routing.slot_weights.data(),
                      pass.Data(gate_up), pass.Data(b.inner));
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
void ExpertsBackward(CpuPass<T>& pass, int64_t layer) {
  CpuBuffers& b = pass.buffers;
  const at::Tensor& gate_up = b.layers[layer].gate_up;  // becomes its gradient
  const ExpertSlots& routing = b.layers[layer].routing;
  const std::vector<MlpOffsets>& experts = pass.offsets.layers[layer].experts;
  SharedBackward(pass, layer);
  const DropoutSite site = pass.Site(layer, DropoutPlace::kMlpOutput);
  Gather(pass, routing, pass.dropping() ? &site : nullptr, b.dh_cast, b.y_slots);
  Gather(pass, routing, nullptr, b.layers[layer].x2, b.x_slots);
  for (int64_t e = 0; e < pass.sizes.experts; ++e) {
    if (Idle(routing, e)) continue;
    SwigluDownBackward(pass, experts[e], SlotsOf(routing, e, b.y_slots),
                       SlotsOf(routing, e, b.dinner));
  }
  pass.kernels.swiglu_backward(pass.parallel, routing.size(), pass.sizes.inner,
                               routing.slot_weights.data(), pass.Data(b.dinner), pass.Data(gate_up),
                               pass.Data(b.inner), Floats(b.d_slot_weights));
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

template void ExpertsForward(CpuPass<float>&, int64_t);
template void ExpertsForward(CpuPass<Bf16>&, int64_t);
template void ExpertsBackward(CpuPass<float>&, int64_t);
template void ExpertsBackward(CpuPass<Bf16>&, int64_t);

}  // namespace mindforge
