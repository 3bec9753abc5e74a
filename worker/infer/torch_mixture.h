// Feed-forwards of the LibTorch backend: SwiGLU, and a mixture of such experts.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace mindforge {

// One SwiGLU feed-forward.
struct TorchMlp {
  at::Tensor gate;
  at::Tensor up;
  at::Tensor down;

  at::Tensor operator()(const at::Tensor& x) const {
    return at::linear(at::silu(at::linear(x, gate)) * at::linear(x, up), down);
  }
};

struct TorchMixture {
  at::Tensor router;  // [experts, hidden], float32 whatever the dtype
  std::vector<TorchMlp> experts;
  std::vector<TorchMlp> shared_experts;
  int64_t per_token = 0;
  bool normalise = true;  // a token's weights sum to 1

  // [N, hidden] to the same. Routing is float32 and the lowest expert wins ties. A token's experts
  // are added in ascending order, without atomics, and the shared ones after them. Waits for the
  // device once, to learn how many rows each expert has.
  at::Tensor operator()(const at::Tensor& x) const;
};

}  // namespace mindforge
