// The arithmetic of CPU decoding, as plain functions over raw pointers, one table per instruction
// set and element type. They know no threads, slots or models.
//
// The order of every sum is fixed by its length alone: a product adds k = 0, 1, 2 … one after the
// other into each output, whatever the number of rows; attention takes keys in blocks at fixed
// absolute positions. So a token's bits do not depend on what is computed beside it. The float32
// tables, and the bfloat16 ones without a dot-product instruction, give the same bits on every
// instruction set.
#pragma once

#include <cstdint>
#include <vector>

namespace mindforge {

enum class InferIsa { kScalar, kAvx2, kAvx512, kAvx512Bf16 };
enum class InferDtype { kFloat32, kBfloat16 };

// Output columns of one packed weight panel.
inline constexpr int64_t kPanelColumns = 64;
// Keys of one attention block; slots are padded to a multiple of it.
inline constexpr int64_t kKeyBlock = 64;
// Keys are stored transposed in groups of this many positions.
inline constexpr int64_t kKeyLanes = 16;

// y[rows, columns] (=, or += when `accumulate`) x[rows, k] · panelᵀ.
struct MatmulArgs {
  const void* x = nullptr;  // elements of the table's dtype
  int64_t x_stride = 0;     // in elements; even, rows zero-padded to an even k
  int64_t rows = 0;
  const void* panel = nullptr;
  int64_t k = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t columns = kPanelColumns;  // of the panel that exist
  bool accumulate = false;
};

// y[rows, columns] = silu(x · gateᵀ) · (x · upᵀ), in the table's dtype.
struct SwigluArgs {
  const void* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  const void* gate = nullptr;
  const void* up = nullptr;
  int64_t k = 0;
  void* y = nullptr;
  int64_t y_stride = 0;
  int64_t columns = kPanelColumns;
};

// One layer's cache for one kv head of one slot. Keys: [position / 16][head_dim][16]; values:
// [position][value_stride], zero-padded to 16.
struct HeadCache {
  void* keys = nullptr;
  void* values = nullptr;
  int64_t value_stride = 0;
};

// Turns the query and key heads of one token by its angle, scales the queries, and stores key and
// value in the cache.
struct PlaceArgs {
  float* query = nullptr;  // [heads, head_dim], in place
  int64_t heads = 0;
  float* key = nullptr;  // [kv_heads, head_dim]
  const float* value = nullptr;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  const float* cos = nullptr;  // [head_dim / 2] at `position`
  const float* sin = nullptr;
  const float* query_norm = nullptr;  // RMSNorm weights over head_dim, or null
  const float* key_norm = nullptr;
  float eps = 0;
  float query_scale = 1;
  int64_t position = 0;
  const HeadCache* caches = nullptr;  // [kv_heads]
};

// The largest head_dim that `attend` takes.
inline constexpr int64_t kMaxHeadDim = 512;

// out[group, head_dim] = softmax(query · keysᵀ) · values over positions 0 … keys-1.
struct AttendArgs {
  const float* query = nullptr;  // [group, head_dim], scaled
  int64_t group = 0;
  int64_t head_dim = 0;
  HeadCache cache;
  int64_t keys = 0;
  void* out = nullptr;  // [group, head_dim], the table's dtype
};

// The functions of one instruction set and dtype.
struct InferKernels {
  const char* numerics = "";  // equal names give equal bits
  int64_t element_bytes = 0;
  void (*matmul)(const MatmulArgs& args) = nullptr;
  void (*swiglu)(const SwigluArgs& args) = nullptr;
  // y = x · rsqrt(mean(x²) + eps) · weight, in the table's dtype.
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, void* y) = nullptr;
  // x = softmax(x); x has room for n rounded up to 16.
  void (*softmax)(float* x, int64_t n) = nullptr;
  void (*place)(const PlaceArgs& args) = nullptr;
  void (*attend)(const AttendArgs& args) = nullptr;
};

// What this machine can run, best last.
std::vector<InferIsa> AvailableInferIsas();
const char* InferIsaName(InferIsa isa);

// The table of `isa`. REQUIRES: it is available. kAvx512Bf16 differs from kAvx512 for kBfloat16
// only.
InferKernels GetInferKernels(InferIsa isa, InferDtype dtype);

// Elements that the panels of a [columns, k] matrix take.
int64_t PackedElements(int64_t columns, int64_t k);

// Packs `count` columns of a row-major [.., k] matrix, float32 or bfloat16 bits as `dtype` says, as
// columns first_column … of the packed matrix at `packed` (zeroed before).
void PackColumns(InferDtype dtype, const void* rows, int64_t count, int64_t k, int64_t first_column,
                 void* packed);

// Start of panel `index`, in elements.
int64_t PanelOffset(int64_t index, int64_t k);

// Round to nearest even.
uint16_t Bfloat16FromFloat(float value);
float FloatFromBfloat16(uint16_t bits);

}  // namespace mindforge
