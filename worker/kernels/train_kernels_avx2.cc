// The training kernels for one instruction set; CMakeLists.txt gives this file its flags.
#define MINDFORGE_ISA avx2
#define MINDFORGE_SIMD_WIDTH 8
#include "worker/kernels/kernel_table_impl.h"
#include "worker/kernels/kernel_tables.h"

namespace mindforge {

MINDFORGE_DEFINE_KERNEL_TABLES(avx2)

}  // namespace mindforge
