// Dropout of the composed backend: which elements are kept is a function of a key, a place in the
// model and the element's position in the microbatch alone, drawn with Philox from LibTorch's
// integer operators. No generator has a state, and the masks are those of any device and rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mindforge {

// Elements that are dropped together: `columns` of n tokens at one site of the model.
struct DropoutRows {
  uint64_t key = 0;
  int64_t stream = 0;    // numbers the site, and the head or expert
  at::Tensor streams;    // int64 [n]: added to `stream`; undefined: 0
  at::Tensor rows;       // int64 [n]: the token's row in the microbatch
  at::Tensor positions;  // int64 [n]: and its position in it
  int64_t columns = 0;
};

// bool [n, columns], true keeps. Column c has word c % 64 / 16 of Philox's counter (position, row,
// c / 64 · 16 + c % 16, stream); it is kept when that reaches probability · 2^32.
at::Tensor DropoutMask(const DropoutRows& rows, double probability);

// x with what `keep` lacks zeroed and the rest scaled by 1 / (1 - probability); x itself when
// `keep` is undefined. Its own backward.
at::Tensor Drop(const at::Tensor& x, const at::Tensor& keep, double probability);

}  // namespace mindforge
