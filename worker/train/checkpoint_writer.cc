#include "worker/train/checkpoint_writer.h"

#include <ATen/ops/empty.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <pthread.h>

#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "worker/train/failure.h"
#include "worker/train/parameters_io.h"

namespace mindforge {
namespace {

at::Tensor HostBuffer(const at::Tensor& like) {
  return at::empty({like.numel()},
                   at::TensorOptions().dtype(at::kFloat).pinned_memory(like.device().is_cuda()));
}

void CopyToHost(const at::Tensor& from, const at::Tensor& to) {
  if (from.device().is_cuda()) {
    to.copy_(from);
    return;
  }
  // Not copy_: it would start a second team of threads beside the one that trains.
  std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
}

// A disk that is full or fails is no fault of the device.
absl::Status OfStorage(const absl::Status& status) {
  if (status.ok()) return status;
  return WorkerUnfit(absl::StrCat("checkpoint.dir on ", HostName(), ": ",
                                  std::string(status.message()),
                                  "; make room or mend it there, and the job goes on"));
}

}  // namespace

CheckpointWriter::CheckpointWriter(CheckpointWriterOptions options, const Minimind& model,
                                   const AdamW& optimizer, const Clock& clock, ProgressSink& sink)
    : options_(std::move(options)),
      model_(model),
      optimizer_(optimizer),
      clock_(clock),
      sink_(sink),
      thread_([this] { Run(); }) {}

CheckpointWriter::~CheckpointWriter() {
  {
    MutexLock lock(mutex_);
    closing_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

absl::Duration CheckpointWriter::WaitUntil(const bool& flag) {
  if (flag) return absl::ZeroDuration();
  const absl::Duration start = clock_.MonotonicNow();
  while (!flag) changed_.Wait(mutex_);
  return clock_.MonotonicNow() - start;
}

absl::Duration CheckpointWriter::Start(CheckpointState state, bool final) {
  MutexLock lock(mutex_);
  const absl::Duration waited = WaitUntil(idle_);
  request_ = Request{.state = std::move(state), .final = final};
  copied_ = false;
  idle_ = false;
  changed_.SignalAll();
  return waited;
}

bool CheckpointWriter::Busy() {
  MutexLock lock(mutex_);
  return !idle_;
}

absl::Duration CheckpointWriter::WaitForCopy() {
  MutexLock lock(mutex_);
  return WaitUntil(copied_);
}

absl::Status CheckpointWriter::Finish() {
  MutexLock lock(mutex_);
  WaitUntil(idle_);
  return last_;
}

int64_t CheckpointWriter::written_step() const {
  MutexLock lock(mutex_);
  return written_step_;
}

void CheckpointWriter::Run() {
  pthread_setname_np(pthread_self(), "checkpoint");
  while (true) {
    Request request;
    {
      MutexLock lock(mutex_);
      while (!request_.has_value() && !closing_) changed_.Wait(mutex_);
      if (!request_.has_value()) return;
      request = *std::exchange(request_, std::nullopt);
    }
    absl::Status status;
    try {
      Copy();
    } catch (const std::exception& error) {
      status = StatusOfException(error, "copying the weights for a checkpoint");
    }
    {
      MutexLock lock(mutex_);
      copied_ = true;
      changed_.SignalAll();
    }
    const bool copied = status.ok();
    if (copied) status = Write(request);
    if (!status.ok()) {
      sink_.OnLog(LogSeverity::kERROR,
                  absl::StrCat("checkpoint of step ", request.state.step,
                               " was not written: ", std::string(status.message()),
                               request.final ? "" : "; training goes on, the next one is tried"));
      sink_.OnCheckpointFailed(request.state.step, std::string(status.message()));
    }
    MutexLock lock(mutex_);
    if (status.ok()) written_step_ = request.state.step;
    last_ = copied ? OfStorage(status) : status;
    idle_ = true;
    changed_.SignalAll();
  }
}

void CheckpointWriter::Copy() {
  if (!weights_.defined()) {
    weights_ = HostBuffer(model_.flat_parameters());
    first_moment_ = HostBuffer(optimizer_.first_moment());
    second_moment_ = HostBuffer(optimizer_.second_moment());
  }
  std::optional<c10::StreamGuard> stream;
  if (model_.device().is_cuda()) {
    // A stream of its own, so that the copy runs beside the next forward and backward.
    const c10::impl::VirtualGuardImpl device(model_.device().type());
    stream.emplace(device.getStreamFromGlobalPool(model_.device()));
  }
  CopyToHost(model_.flat_parameters(), weights_);
  CopyToHost(optimizer_.first_moment(), first_moment_);
  CopyToHost(optimizer_.second_moment(), second_moment_);
}

absl::Status CheckpointWriter::Write(const Request& request) {
  const absl::Duration start = clock_.MonotonicNow();
  const std::vector<ParameterView>& parameters = model_.parameters();
  const auto model = ViewsOf(
      parameters, [](std::string_view name) { return std::string(name); },
      weights_.const_data_ptr<float>());
  const std::vector<ParameterView> trained = TrainedParameters(model_);
  auto optimizer = ViewsOf(trained, FirstMomentName, first_moment_.const_data_ptr<float>());
  for (TensorView& view :
       ViewsOf(trained, SecondMomentName, second_moment_.const_data_ptr<float>())) {
    optimizer.push_back(std::move(view));
  }
  const CheckpointContents contents{.state = request.state,
                                    .model_config = model_.config(),
                                    .model = model,
                                    .optimizer = optimizer,
                                    .tokenizer = options_.tokenizer,
                                    .lora_rank = model_.options().lora_rank,
                                    .prompt_style = options_.prompt_style};
  ASSIGN_OR_RETURN(const CheckpointFolder folder, WriteCheckpoint(options_.dir, contents));
  ASSIGN_OR_RETURN(const std::string digest, CheckpointDigest(folder.path));
  const double seconds = absl::ToDoubleSeconds(clock_.MonotonicNow() - start);
  sink_.OnCheckpoint({.folder = folder,
                      .size_bytes = CheckpointBytes(folder.path),
                      .loss = request.state.loss,
                      .validation_loss = request.state.validation_loss,
                      .manifest_digest = digest,
                      .write_seconds = seconds,
                      .final = request.final});
  sink_.OnLog(LogSeverity::kINFO, absl::StrFormat("checkpoint of step %d written in %.2f s",
                                                  request.state.step, seconds));
  return absl::OkStatus();
}

}  // namespace mindforge
