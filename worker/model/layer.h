// One layer, forward and back.
#pragma once

#include "worker/model/pass.h"

namespace mindforge {

// The layer's buffers, and in buffers.delta what it adds to its h2. The residual stream comes in as
// residual + delta; residual may be the layer's h1, no delta: residual alone.
template <typename T>
void LayerForward(Pass<T>& pass, int64_t index, const float* residual, const T* delta);

// buffers.dh, the gradient of the residual stream, and its copy dh_cast go from the layer's output
// to its input; the weights' gradients. Not `needs_input`: nothing below is trained, and dh ends as
// that of h2.
template <typename T>
void LayerBackward(Pass<T>& pass, int64_t index, bool needs_input);

}  // namespace mindforge
