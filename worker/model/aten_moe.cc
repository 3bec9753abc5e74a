#include "worker/model/aten_moe.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include "worker/model/expert_slots.h"

namespace mindforge {
namespace {

constexpr double kNormEpsilon = 1e-20;

// Calls f(expert's place, first of its sorted tokens, their number) for each routed expert.
template <typename Function>
void ForExperts(const AtenPass& pass, const MoePlace& place, const MoeState& state, Function&& f) {
  int64_t begin = 0;
  for (int64_t e = 0; e < pass.sizes.experts; ++e) {
    const int64_t count = state.counts[e];
    MlpPlace mlp{.at = place.at.experts[e], .layer = place.layer, .expert = e};
    if (pass.Drops()) {
      mlp.rows = state.rows.narrow(0, begin, count);
      mlp.positions = state.positions.narrow(0, begin, count);
    }
    f(mlp, begin, count);
    begin += count;
  }
}

MlpPlace Shared(const AtenPass& pass, const MoePlace& place, int64_t e) {
  return {place.at.shared[e], place.layer, pass.sizes.experts + e, pass.rows, pass.positions};
}

// The router works in float32 whatever the compute dtype: rounding would decide close choices.
at::Tensor Router(const AtenPass& pass, const MoePlace& place) {
  return Vector(pass, place.at.router, pass.sizes.experts * pass.sizes.hidden)
      .view({pass.sizes.experts, pass.sizes.hidden});
}

// bool [n, k, E]
at::Tensor Picks(const AtenPass& pass, const at::Tensor& choices) {
  return choices.unsqueeze(-1) == at::arange(pass.sizes.experts, choices.options());
}

void Route(const AtenPass& pass, const MoePlace& place, const at::Tensor& x, MoeState& state) {
  state.scores = at::softmax(at::mm(x.to(at::kFloat), Router(pass, place).t()), 1);
  // A stable sort keeps the lower of two equal experts in front.
  const auto [ranked, experts] =
      at::sort(state.scores, /*stable=*/true, /*dim=*/1, /*descending=*/true);
  state.raw = ranked.narrow(1, 0, pass.sizes.top_k);
  state.choices = experts.narrow(1, 0, pass.sizes.top_k).contiguous();
  state.weights = pass.config.NormalizesTopK()
                      ? state.raw / (state.raw.sum(1, /*keepdim=*/true) + kNormEpsilon)
                      : state.raw;
  if (pass.routing != nullptr) pass.routing->push_back(state.choices.cpu());
}

void CountLoad(const AtenPass& pass, const MoePlace& place, MoeState& state) {
  const int64_t experts = pass.sizes.experts;
  const BalanceOptions balance = BalanceOf(pass.config);
  const int64_t groups = balance.per_sequence ? place.batch : 1;
  const at::Tensor picks = Picks(pass, state.choices).view({groups, -1, experts});
  const double share = static_cast<double>(picks.size(1)) / static_cast<double>(experts);
  state.load = picks.sum(1).to(at::kFloat) / share;  // [groups, E]
  const at::Tensor mean = state.scores.view({groups, -1, experts}).mean(1);
  state.auxiliary = (state.load * mean).sum(1).mean() * balance.alpha;
}

// d scores f32 [n, E] of the weights' gradient f32 [n, k].
at::Tensor ScoresBackward(const AtenPass& pass, const MoeState& state, const at::Tensor& dweights) {
  at::Tensor draw = dweights;
  if (pass.config.NormalizesTopK()) {
    const at::Tensor sum = state.raw.sum(1, /*keepdim=*/true) + kNormEpsilon;
    draw = (dweights - (dweights * state.weights).sum(1, /*keepdim=*/true)) / sum;
  }
  const at::Tensor dscores = (Picks(pass, state.choices) * draw.unsqueeze(-1)).sum(1);
  const int64_t groups = state.load.size(0);
  const auto tokens = static_cast<double>(state.scores.size(0));
  const at::Tensor balance =
      state.load * (pass.auxiliary_scale * (BalanceOf(pass.config).alpha / tokens));
  return (dscores.view({groups, -1, pass.sizes.experts}) + balance.unsqueeze(1))
      .view({-1, pass.sizes.experts});
}

}  // namespace

at::Tensor ForwardMoe(const AtenPass& pass, const MoePlace& place, const at::Tensor& x,
                      MoeState& state) {
  const int64_t k = pass.sizes.top_k;
  Route(pass, place, x, state);
  if (pass.training) CountLoad(pass, place, state);
  const at::Tensor flat = state.choices.flatten();
  state.order = at::argsort(flat, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  state.back = at::argsort(state.order, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor counts = Picks(pass, flat).sum(0).cpu();
  const auto* count = counts.const_data_ptr<int64_t>();
  state.counts.assign(count, count + pass.sizes.experts);
  const at::Tensor tokens = state.order.floor_divide(k);
  state.inputs = x.index_select(0, tokens);
  if (pass.Drops()) {
    state.rows = pass.rows.index_select(0, tokens);
    state.positions = pass.positions.index_select(0, tokens);
  }
  state.experts.resize(pass.sizes.experts);
  std::vector<at::Tensor> runs;
  ForExperts(pass, place, state, [&](const MlpPlace& mlp, int64_t begin, int64_t count) {
    runs.push_back(
        ForwardMlp(pass, mlp, state.inputs.narrow(0, begin, count), state.experts[mlp.expert]));
  });
  state.outputs = at::cat(runs).index_select(0, state.back).view({-1, k, pass.sizes.hidden});
  at::Tensor y = (state.outputs.to(at::kFloat) * state.weights.unsqueeze(-1)).sum(1);
  state.shared.resize(pass.sizes.shared);
  for (int64_t e = 0; e < pass.sizes.shared; ++e) {
    y.add_(ForwardMlp(pass, Shared(pass, place, e), x, state.shared[e]));
  }
  return y;
}

at::Tensor BackwardMoe(const AtenPass& pass, const MoePlace& place, const at::Tensor& x,
                       const MoeState& state, const at::Tensor& dy) {
  const int64_t hidden = pass.sizes.hidden;
  const at::Tensor each = dy.unsqueeze(1);  // [n, 1, hidden]
  const at::Tensor dweights = (state.outputs.to(at::kFloat) * each).sum(-1);
  const at::Tensor doutputs = (each * state.weights.unsqueeze(-1))
                                  .to(pass.type)
                                  .view({-1, hidden})
                                  .index_select(0, state.order);
  std::vector<at::Tensor> runs;
  ForExperts(pass, place, state, [&](const MlpPlace& mlp, int64_t begin, int64_t count) {
    runs.push_back(BackwardMlp(pass, mlp, state.inputs.narrow(0, begin, count),
                               state.experts[mlp.expert], doutputs.narrow(0, begin, count)));
  });
  at::Tensor dx = at::cat(runs)
                      .index_select(0, state.back)
                      .view({-1, pass.sizes.top_k, hidden})
                      .sum(1, /*keepdim=*/false, at::kFloat);
  const at::Tensor cast = dy.to(pass.type);
  for (int64_t e = 0; e < pass.sizes.shared; ++e) {
    dx.add_(BackwardMlp(pass, Shared(pass, place, e), x, state.shared[e], cast));
  }
  const at::Tensor dscores = ScoresBackward(pass, state, dweights);
  const at::Tensor dlogits =
      (dscores - (dscores * state.scores).sum(1, /*keepdim=*/true)) * state.scores;
  WeightGradient(pass, dlogits, x.to(at::kFloat), place.at.router);
  return dx.add_(at::mm(dlogits, Router(pass, place)));
}

}  // namespace mindforge
