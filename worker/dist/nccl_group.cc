// NCCL's part of a group; compiled with MINDFORGE_CUDA only. What may hang, and how long that is
// borne, is guarded_communicator.h's business.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <chrono>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/dist/gloo_group.h"
#include "worker/dist/group_backends.h"
#include "worker/dist/guarded_communicator.h"

namespace mindforge {
namespace {

absl::Status Failed(const std::exception& error) {
  return absl::UnavailableError(absl::StrCat("NCCL failed: ", FirstLine(error)));
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(const ProcessGroupOptions& options,
                   c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl)
      : rank_(options.rank),
        world_size_(options.world_size),
        device_(options.cuda_device),
        nccl_(std::move(nccl)) {}

  // NCCL makes its communicator, and the connections of each pair, at their first use: one byte
  // from each rank to each.
  absl::Status Form() override {
    try {
      const auto bytes = at::empty({2 * world_size_}, Options());
      char* const data = static_cast<char*>(bytes.mutable_data_ptr());
      std::vector<Transfer> transfers;
      for (int peer = 0; peer < world_size_; ++peer) {
        if (peer == rank_) continue;
        transfers.push_back(
            {.kind = Transfer::Kind::kSend, .peer = peer, .data = data + peer, .bytes = 1});
        transfers.push_back({.kind = Transfer::Kind::kReceive,
                             .peer = peer,
                             .data = data + world_size_ + peer,
                             .bytes = 1});
      }
      RETURN_IF_ERROR(Start(transfers));
      work_->synchronize();
      bytes.cpu();  // waits for the stream, and so for the bytes
    } catch (const std::exception& error) {
      return Failed(error);
    }
    return absl::OkStatus();
  }

  absl::Status Start(absl::Span<const Transfer> transfers) override {
    try {
      nccl_->startCoalescing();
      for (const Transfer& transfer : transfers) {
        std::vector<at::Tensor> tensor{at::from_blob(transfer.data, {transfer.bytes}, Options())};
        if (transfer.kind == Transfer::Kind::kSend) {
          nccl_->send(tensor, transfer.peer, 0);
        } else {
          nccl_->recv(tensor, transfer.peer, 0);
        }
      }
      work_ = nccl_->endCoalescing();
    } catch (const std::exception& error) {
      return Failed(error);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Done() override {
    try {
      if (!work_->isCompleted()) return false;
      if (const std::exception_ptr failure = work_->exception()) std::rethrow_exception(failure);
    } catch (const std::exception& error) {
      return Failed(error);
    }
    return true;
  }

  // Not wait(): that aborts on this thread when NCCL failed, and an abort may hang.
  absl::Status Order() override {
    try {
      work_->synchronize();
    } catch (const std::exception& error) {
      return Failed(error);
    }
    return absl::OkStatus();
  }

  void Abort() override {
    try {
      nccl_->abort();
    } catch (const std::exception&) {
      // The group is given up already and the error behind it is reported.
    }
  }

 private:
  at::TensorOptions Options() const {
    return at::TensorOptions().dtype(at::kByte).device(at::kCUDA, device_);
  }

  const int rank_;
  const int world_size_;
  const int device_;
  const c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl_;
  c10::intrusive_ptr<c10d::Work> work_;  // of what was started last
};

class NcclGroup : public ProcessGroup {
 public:
  NcclGroup(std::unique_ptr<GlooGroup> host, std::unique_ptr<GuardedCommunicator> devices)
      : ProcessGroup(host->rank(), host->world_size()),
        host_(std::move(host)),
        devices_(std::move(devices)) {}

  absl::Status ExchangeHost(absl::Span<const Transfer> transfers, absl::Duration timeout) override {
    return host_->ExchangeHost(transfers, timeout);
  }
  absl::Status ExchangeDevice(absl::Span<const Transfer> transfers,
                              absl::Duration timeout) override {
    return devices_->Exchange(transfers, timeout);
  }

 private:
  const std::unique_ptr<GlooGroup> host_;
  const std::unique_ptr<GuardedCommunicator> devices_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ProcessGroup>> AddNccl(std::unique_ptr<GlooGroup> host,
                                                      const ProcessGroupOptions& options,
                                                      c10::intrusive_ptr<c10d::Store> store) {
  // NCCL's own watchdog would tear the process down on an error; deciding that is our business.
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 1);
  setenv("TORCH_NCCL_ENABLE_MONITORING", "0", 1);
  setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", 1);
  // Multicast over NVLink is refused inside some containers and buys nothing for sends.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  std::shared_ptr<NcclCommunicator> communicator;
  try {
    auto nccl_options = c10d::ProcessGroupNCCL::Options::create();
    nccl_options->timeout =
        std::chrono::milliseconds(absl::ToInt64Milliseconds(options.join_timeout));
    communicator = std::make_shared<NcclCommunicator>(
        options, c10::make_intrusive<c10d::ProcessGroupNCCL>(
                     c10::make_intrusive<c10d::PrefixStore>("nccl", std::move(store)), options.rank,
                     options.world_size, nccl_options));
  } catch (const std::exception& error) {
    return PeerLost(absl::StrCat("NCCL could not form the group: ", FirstLine(error)));
  }
  ASSIGN_OR_RETURN(
      std::unique_ptr<GuardedCommunicator> devices,
      GuardedCommunicator::Form(std::move(communicator), options.rank, options.join_timeout));
  return std::unique_ptr<ProcessGroup>(
      std::make_unique<NcclGroup>(std::move(host), std::move(devices)));
}

}  // namespace mindforge
