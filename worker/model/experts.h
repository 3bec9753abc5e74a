// A mixture of experts as a layer's feed-forward block. Its routing waits for the device:
// routing.h.
#pragma once

#include "worker/model/pass.h"

namespace mindforge {

// buffers.delta = the block's output of the layer's x2; adds the layer's balance loss to
// pass.auxiliary_loss when training.
template <typename T>
void ExpertsForward(Pass<T>& pass, int64_t layer);

// From buffers.dh_cast, the output's gradient: weights' gradients, and buffers.dx, that of x2.
template <typename T>
void ExpertsBackward(Pass<T>& pass, int64_t layer);

}  // namespace mindforge
