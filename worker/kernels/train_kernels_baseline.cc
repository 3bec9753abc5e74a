// The training kernels for one instruction set; CMakeLists.txt gives this file its flags.
#define MINDFORGE_ISA baseline
#define MINDFORGE_SIMD_WIDTH 4
#include "worker/kernels/kernel_table_impl.h"
#include "worker/kernels/kernel_tables.h"

namespace mindforge {

MINDFORGE_DEFINE_KERNEL_TABLES(baseline)

}  // namespace mindforge
