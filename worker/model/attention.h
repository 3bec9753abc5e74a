// Attention of a layer's rotated q, k and v: the column's fused kernels, or by the book.
#pragma once

#include "worker/model/pass.h"

namespace mindforge {

// The parts of a fused projection, by element.
struct QkvParts {
  int64_t q, k, v;  // where each begins
  int64_t kv_size;

  explicit QkvParts(const ModelSizes& s)
      : q(0),
        k(s.heads * s.head_dim),
        v((s.heads + s.kv_heads) * s.head_dim),
        kv_size(s.kv_heads * s.head_dim) {}
};

// The layer's attention and log2_sum from its qkv.
template <typename T>
void Attend(Pass<T>& pass, int64_t layer);

// buffers.dqkv from buffers.dattention.
template <typename T>
void AttendBackward(Pass<T>& pass, int64_t layer);

}  // namespace mindforge
