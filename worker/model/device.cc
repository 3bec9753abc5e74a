#include "worker/model/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <type_traits>
#ifdef MINDFORGE_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "worker/kernels/cuda/train_kernels_cuda.h"
#endif

namespace mindforge {

template <typename T>
const TrainKernels<T>& KernelsOf(c10::Device device) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) return CudaTrainKernels<T>();
#endif
  if constexpr (std::is_same_v<T, Half>) {
    TORCH_CHECK(false, "there are no kernels of float16 for ", device);
  } else {
    return GetTrainKernels<T>(DetectCpuIsa());
  }
}

template const TrainKernels<float>& KernelsOf(c10::Device);
template const TrainKernels<Bf16>& KernelsOf(c10::Device);
template const TrainKernels<Half>& KernelsOf(c10::Device);

const OptimizerKernels& OptimizerKernelsOf(c10::Device device) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) return CudaOptimizerKernels();
#endif
  return GetOptimizerKernels(DetectCpuIsa());
}

Parallel ParallelOf(c10::Device device) {
  Parallel parallel;
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) {
    parallel.stream = c10::cuda::getCurrentCUDAStream(device.index()).stream();
    return parallel;
  }
#endif
  parallel.run = [](void*, int64_t count, Parallel::Task task, void* context) {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(context, i);
    });
  };
  return parallel;
}

int64_t EmbedBackwardWorkspace(c10::Device device, int64_t n, int64_t c, int64_t vocab) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) {
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    return (CudaEmbedBackwardWorkspace(n, c, vocab) + kFloat - 1) / kFloat;
  }
#endif
  return 0;
}

template <typename T>
void EmbedBackward(c10::Device device, const Parallel& parallel, int64_t n, int64_t c,
                   int64_t vocab, const int64_t* ids, const float* dh, float* table_gradient,
                   float* workspace) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) {
    CudaEmbedBackward(parallel, n, c, vocab, ids, dh, table_gradient, workspace);
    return;
  }
#endif
  KernelsOf<T>(device).embed_backward(parallel, n, c, ids, dh, table_gradient);
}

#define MINDFORGE_INSTANTIATE(T)                                                          \
  template void EmbedBackward<T>(c10::Device, const Parallel&, int64_t, int64_t, int64_t, \
                                 const int64_t*, const float*, float*, float*);
MINDFORGE_INSTANTIATE(float)
MINDFORGE_INSTANTIATE(Bf16)
MINDFORGE_INSTANTIATE(Half)

at::Tensor MeanLoss(const at::Tensor& row_losses, int64_t counted, double auxiliary) {
#ifdef MINDFORGE_CUDA
  if (row_losses.is_cuda()) {
    const at::Tensor loss = at::empty({}, row_losses.options());
    CudaSumLosses(ParallelOf(row_losses.device()), row_losses.numel(),
                  row_losses.const_data_ptr<float>(), 1.0 / static_cast<double>(counted),
                  /*sum=*/nullptr, loss.mutable_data_ptr<float>());
    return auxiliary == 0 ? loss : loss.add(auxiliary);
  }
#endif
  return at::scalar_tensor(OrderedSum(row_losses) / static_cast<double>(counted) + auxiliary,
                           at::kFloat);
}

double OrderedSum(const at::Tensor& row_losses) {
  const at::Tensor host = row_losses.cpu();
  const auto* loss = host.const_data_ptr<float>();
  double sum = 0;
  for (int64_t i = 0; i < host.numel(); ++i) sum += static_cast<double>(loss[i]);
  return sum;
}

void MakeDeterministic(c10::Device device) {
  if (!device.is_cuda()) return;
  // cuBLAS needs a fixed workspace for that, named before its first use.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  context.setDeterministicFillUninitializedMemory(false);
  context.setAllowTF32CuBLAS(false);
  context.setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false);
  context.setAllowFP16ReductionCuBLAS(/*allow_reduced_precision=*/false);
}

void CheckLaunches(c10::Device device) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) C10_CUDA_KERNEL_LAUNCH_CHECK();
#endif
  (void)device;
}

}  // namespace mindforge
