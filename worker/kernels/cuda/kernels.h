// The launchers behind the tables of train_kernels_cuda.h, each documented where the table declares
// it. Defined for float, Bf16 and Half, one concept a .cu file.
#pragma once

#include "worker/kernels/train_kernels.h"

namespace mindforge::cuda {

// embedding.cu
void Embed(const Parallel&, int64_t n, int64_t c, const int64_t* ids, const float* table, float* h);

// norm.cu
template <typename T>
void AddNorm(const Parallel&, int64_t n, int64_t c, const float* residual, const T* delta,
             const float* w, float eps, float* h, float* rstd, T* y);
template <typename T>
void NormBackward(const Parallel&, int64_t n, int64_t c, const T* dy, const float* h,
                  const float* rstd, const float* w, bool accumulate, float* dh, T* dh_cast,
                  float* dw, float* partials);

// rope.cu
template <typename T>
void Rope(const Parallel&, int64_t n, const int32_t* positions, int64_t heads, int64_t head_dim,
          int64_t stride, const float* cos, const float* sin, float sign, T* x);

// qk_norm.cu
template <typename T>
void QkNorm(const Parallel&, const QkNormShape&, const T* x, T* y);
template <typename T>
void QkNormBackward(const Parallel&, const QkNormShape&, const T* x, T* dy, float* dwq, float* dwk,
                    float* partials);

// swiglu.cu
template <typename T>
void SwiGlu(const Parallel&, int64_t n, int64_t c, const float* row_scale, const T* gate_up, T* a);
template <typename T>
void SwiGluBackward(const Parallel&, int64_t n, int64_t c, const float* row_scale, const T* da,
                    T* gate_up, T* a, float* d_row_scale);

// dropout.cu
template <typename T>
void Dropout(const Parallel&, int64_t n, int64_t c, const TokenPlaces&, const DropoutSite&,
             int64_t index, const T* x, T* y);
void DropoutScores(const Parallel&, int64_t batch, int64_t heads, int64_t length,
                   const DropoutSite&, float* out);

// route.cu
template <typename T>
void Route(const Parallel&, const RouterShape&, const T* x, const float* w, float* scores,
           int32_t* chosen, float* weights);
void RouteBackward(const Parallel&, const RouterShape&, const RouterGradient&, float* d_logits);
template <typename T>
void RouterWeightGradient(const Parallel&, const RouterShape&, const float* d_logits, const T* x,
                          float* dw);

// expert_rows.cu
template <typename T>
void GatherRows(const Parallel&, const RowGather&, const T* x, T* out);
template <typename T>
void CombineRows(const Parallel&, const RowCombine<T>&, T* out);

// cross_entropy.cu
template <typename T>
void CrossEntropy(const Parallel&, int64_t n, int64_t c, const int64_t* targets,
                  const uint8_t* mask, float scale, T* logits, float* row_loss);

// convert.cu
template <typename T>
void FromFloat(const Parallel&, int64_t size, const float* x, T* y);
template <typename T>
void ConvertToFloat(const Parallel&, int64_t size, const T* x, float* y);

// optimizer.cu
void SumSquares(const Parallel&, int64_t size, const float* x, double* sums);
void AdamW(const Parallel&, int64_t size, const AdamWScalars&, const float* gradient,
           float* parameters, float* m, float* v, Bf16* copy);

}  // namespace mindforge::cuda
