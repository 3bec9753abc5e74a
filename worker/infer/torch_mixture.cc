#include "worker/infer/torch_mixture.h"

#include <tuple>

namespace mindforge {

at::Tensor TorchMixture::operator()(const at::Tensor& x) const {
  const int64_t tokens = x.size(0), k = per_token;
  const auto all = static_cast<int64_t>(experts.size());
  const at::Tensor scores = at::softmax(at::linear(x.to(at::kFloat), router), -1);
  const auto [sorted, order] = at::sort(scores, /*stable=*/true, -1, /*descending=*/true);
  at::Tensor weights = sorted.narrow(1, 0, k);  // [N, k]
  if (normalise) weights = weights / (weights.sum(-1, /*keepdim=*/true) + 1e-20);
  const auto [chosen, ascending] = at::sort(order.narrow(1, 0, k), -1);
  weights = weights.gather(1, ascending);

  // Rows by expert, so that each expert's weights are read once.
  const at::Tensor expert_of_row = chosen.flatten();  // [N · k]
  const at::Tensor by_expert =
      std::get<1>(at::sort(expert_of_row, /*stable=*/true, 0, /*descending=*/false));
  const at::Tensor counts = at::bincount(expert_of_row, {}, all).to(at::kCPU);
  const int64_t* count = counts.const_data_ptr<int64_t>();
  const at::Tensor gathered =
      x.index_select(0, at::div(by_expert, at::Scalar(k), /*rounding_mode=*/"floor"));
  const at::Tensor outputs = at::empty_like(gathered);
  int64_t row = 0;
  for (int64_t e = 0; e < all; row += count[e++]) {
    if (count[e] == 0) continue;
    outputs.narrow(0, row, count[e]).copy_(experts[e](gathered.narrow(0, row, count[e])));
  }
  const at::Tensor back = at::empty_like(by_expert).index_copy_(
      0, by_expert, at::arange(tokens * k, by_expert.options()));
  const at::Tensor by_token =
      outputs.index_select(0, back).view({tokens, k, x.size(1)}).to(at::kFloat);
  at::Tensor sum = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
  for (int64_t j = 0; j < k; ++j) sum.addcmul_(by_token.select(1, j), weights.narrow(1, j, 1));
  for (const TorchMlp& shared : shared_experts) sum += shared(x);
  return sum.to(x.scalar_type());
}

}  // namespace mindforge
