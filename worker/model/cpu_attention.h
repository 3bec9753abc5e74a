// The attention block on the CPU: projections, norms of q and k, RoPE, either attention path, and
// their backward.
#pragma once

#include "worker/model/cpu_pass.h"

namespace mindforge {

// buffers.delta = the block's output of the layer's x1.
template <typename T>
void AttentionForward(CpuPass<T>& pass, int64_t layer);

// From buffers.dh_cast, the output's gradient: weights' gradients, and buffers.dx, that of x1,
// unless `needs_input` is false.
template <typename T>
void AttentionBackward(CpuPass<T>& pass, int64_t layer, bool needs_input);

}  // namespace mindforge
