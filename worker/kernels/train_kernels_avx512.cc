// The training kernels for one instruction set; CMakeLists.txt gives this file its flags.
#define MINDFORGE_ISA avx512
#define MINDFORGE_SIMD_WIDTH 16
#include "worker/kernels/kernel_table_impl.h"
#include "worker/kernels/kernel_tables.h"

namespace mindforge {

MINDFORGE_DEFINE_KERNEL_TABLES(avx512)

}  // namespace mindforge
