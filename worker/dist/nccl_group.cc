// NCCL's part of a group; compiled with MINDFORGE_CUDA only.
#include <ATen/ops/from_blob.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "worker/dist/gloo_group.h"
#include "worker/dist/group_backends.h"

namespace mindforge {
namespace {

constexpr absl::Duration kPollInterval = absl::Microseconds(50);

class NcclGroup : public ProcessGroup {
 public:
  NcclGroup(std::unique_ptr<GlooGroup> host, int device,
            c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl)
      : ProcessGroup(host->rank(), host->world_size()),
        device_(device),
        host_(std::move(host)),
        nccl_(std::move(nccl)) {}

  ~NcclGroup() override {
    if (abort_.joinable()) abort_.join();
  }

  absl::Status ExchangeHost(absl::Span<const Transfer> transfers, absl::Duration timeout) override {
    return host_->ExchangeHost(transfers, timeout);
  }

  absl::Status ExchangeDevice(absl::Span<const Transfer> transfers,
                              absl::Duration timeout) override {
    try {
      const auto work = Start(transfers);
      if (work == nullptr) return absl::OkStatus();
      if (!Poll(*work, timeout)) {
        Abort();
        return PeerLost(absl::StrCat("rank ", rank(), ": an exchange over NCCL took longer than ",
                                     absl::FormatDuration(timeout)));
      }
      work->wait();  // orders the current stream behind NCCL's; throws what NCCL reported
    } catch (const std::exception& error) {
      Abort();
      return PeerLost(absl::StrCat("rank ", rank(), ": NCCL failed: ", FirstLine(error)));
    }
    return absl::OkStatus();
  }

 private:
  // Null when there is nothing to transfer.
  c10::intrusive_ptr<c10d::Work> Start(absl::Span<const Transfer> transfers) {
    const auto options = at::TensorOptions().dtype(at::kByte).device(at::kCUDA, device_);
    bool started = false;
    for (const Transfer& transfer : transfers) {
      if (transfer.bytes == 0) continue;
      if (!started) nccl_->startCoalescing();
      started = true;
      std::vector<at::Tensor> tensor{at::from_blob(transfer.data, {transfer.bytes}, options)};
      if (transfer.kind == Transfer::Kind::kSend) {
        nccl_->send(tensor, transfer.peer, 0);
      } else {
        nccl_->recv(tensor, transfer.peer, 0);
      }
    }
    return started ? nccl_->endCoalescing() : nullptr;
  }

  // False when the time ran out. The host waits here, since the update must not be enqueued behind
  // an exchange that may never end.
  bool Poll(c10d::Work& work, absl::Duration timeout) {
    const RealClock clock;
    const absl::Duration deadline = clock.MonotonicNow() + timeout;
    while (!work.isCompleted()) {
      if (clock.MonotonicNow() > deadline) return false;
      MutexLock lock(poll_mutex_);
      poll_.WaitFor(poll_mutex_, kPollInterval);
    }
    return true;
  }

  // NCCL's abort may hang, so it gets a thread of its own; whoever supervises the process ends it.
  void Abort() {
    if (abort_.joinable()) return;
    abort_ = std::thread([nccl = nccl_] {
      try {
        nccl->abort();
      } catch (const std::exception&) {
        // The group is given up already and the error behind it is reported.
      }
    });
  }

  const int device_;
  const std::unique_ptr<GlooGroup> host_;
  const c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl_;
  Mutex poll_mutex_;
  CondVar poll_;  // never signalled: its wait with a timeout yields the core between two polls
  std::thread abort_;
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
  try {
    auto nccl_options = c10d::ProcessGroupNCCL::Options::create();
    nccl_options->timeout =
        std::chrono::milliseconds(absl::ToInt64Milliseconds(options.join_timeout));
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(
        c10::make_intrusive<c10d::PrefixStore>("nccl", std::move(store)), options.rank,
        options.world_size, nccl_options);
    return std::unique_ptr<ProcessGroup>(
        std::make_unique<NcclGroup>(std::move(host), options.cuda_device, std::move(nccl)));
  } catch (const std::exception& error) {
    return PeerLost(absl::StrCat("NCCL could not form the group: ", FirstLine(error)));
  }
}

}  // namespace mindforge
