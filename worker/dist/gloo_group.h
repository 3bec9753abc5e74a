// Gloo's part of a group, and the store it met through, for NCCL to build on. Sees LibTorch: for
// worker/dist's own files.
#pragma once

#include <memory>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "worker/dist/process_group.h"

namespace mindforge {

// Sends and receives of host memory. See ProcessGroup.
class GlooGroup : public ProcessGroup {
 public:
  GlooGroup(const ProcessGroupOptions& options, c10::intrusive_ptr<c10d::Store> store,
            c10::intrusive_ptr<c10d::Backend> gloo);
  ~GlooGroup() override;

  absl::Status ExchangeHost(absl::Span<const Transfer> transfers, absl::Duration timeout) override;
  absl::Status ExchangeDevice(absl::Span<const Transfer> transfers,
                              absl::Duration timeout) override {
    return ExchangeHost(transfers, timeout);
  }

 private:
  const c10::intrusive_ptr<c10d::Store> store_;
  const c10::intrusive_ptr<c10d::Backend> gloo_;
};

// `host` with device memory carried by NCCL. Only in builds with MINDFORGE_CUDA.
absl::StatusOr<std::unique_ptr<ProcessGroup>> AddNccl(std::unique_ptr<GlooGroup> host,
                                                      const ProcessGroupOptions& options,
                                                      c10::intrusive_ptr<c10d::Store> store);

}  // namespace mindforge
