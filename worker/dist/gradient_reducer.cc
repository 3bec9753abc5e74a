#include "worker/dist/gradient_reducer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

// Tags of transfers: a partial's slot in the sender, or the sum on its way back.
constexpr uint32_t kPartialTag = 1000;
constexpr uint32_t kSumTag = 999;

int64_t BufferElements(int64_t elements) { return (elements + 1 + 15) / 16 * 16; }

char* At(const at::Tensor& buffer, int64_t element) {
  return static_cast<char*>(buffer.mutable_data_ptr()) +
         element * static_cast<int64_t>(sizeof(float));
}

}  // namespace

GradientReducer::GradientReducer(int64_t elements, c10::Device device, ProcessGroup& group)
    : elements_(elements),
      buffer_elements_(BufferElements(elements)),
      device_(device),
      group_(group) {}

MicrobatchRange GradientReducer::BeginStep(int64_t microbatches) {
  MF_CHECK_GE(microbatches, 1);
  microbatches_ = microbatches;
  run_ = RunOf(group_.rank(), group_.world_size(), microbatches);
  added_ = 0;
  for (Partial& partial : partials_) free_.push_back(std::move(partial.buffer));
  partials_.clear();
  return run_;
}

at::Tensor GradientReducer::TakeBuffer() {
  if (free_.empty()) {
    return at::empty({buffer_elements_}, at::TensorOptions().dtype(at::kFloat).device(device_));
  }
  at::Tensor buffer = std::move(free_.back());
  free_.pop_back();
  return buffer;
}

at::Tensor GradientReducer::NextGradient() {
  MF_CHECK_LT(added_, run_.size());
  if (!current_.defined()) current_ = TakeBuffer();
  return current_.narrow(0, 0, elements_);
}

void GradientReducer::Add(const at::Tensor& loss) {
  MF_CHECK(current_.defined()) << "Add without NextGradient";
  // The padding travels too, so it must be numbers.
  current_.narrow(0, elements_, buffer_elements_ - elements_).zero_();
  current_.narrow(0, elements_, 1).copy_(loss.reshape({1}));
  const int64_t leaf = run_.begin + added_++;
  partials_.push_back({.range = {leaf, leaf + 1}, .buffer = std::move(current_)});
  current_ = at::Tensor();
  while (partials_.size() >= 2) {
    Partial& left = partials_[partials_.size() - 2];
    Partial& right = partials_.back();
    if (!AreSiblings(left.range, right.range, microbatches_)) break;
    left.buffer.add_(right.buffer);
    left.range.end = right.range.end;
    free_.push_back(std::move(right.buffer));
    partials_.pop_back();
  }
}

absl::StatusOr<GradientReducer::Sum> GradientReducer::Finish(absl::Duration timeout) {
  MF_CHECK_EQ(added_, run_.size());
  at::Tensor sum;
  if (group_.world_size() == 1) {
    MF_CHECK_EQ(partials_.size(), 1u);
    sum = partials_[0].buffer;
  } else {
    ASSIGN_OR_RETURN(sum, Exchange(timeout));
  }
  return Sum{.gradient = sum.narrow(0, 0, elements_), .loss = sum.narrow(0, elements_, 1)[0]};
}

absl::Status GradientReducer::SendPartials(const std::vector<PlannedPartial>& plan,
                                           ElementRange mine, absl::Duration timeout) {
  const int64_t width = mine.size();
  int64_t others = 0;
  for (const PlannedPartial& partial : plan) others += partial.rank != group_.rank();
  if (!received_.defined() || received_.numel() < others * width) {
    received_ = at::empty({std::max<int64_t>(1, others * width)},
                          at::TensorOptions().dtype(at::kFloat).device(device_));
  }
  std::vector<Transfer> transfers;
  int64_t row = 0;
  for (const PlannedPartial& partial : plan) {
    if (partial.rank == group_.rank()) continue;
    transfers.push_back({.kind = Transfer::Kind::kReceive,
                         .peer = partial.rank,
                         .tag = kPartialTag + static_cast<uint32_t>(partial.slot),
                         .data = At(received_, row++ * width),
                         .bytes = width * static_cast<int64_t>(sizeof(float))});
  }
  // Each rank begins with its right neighbour, so that not all send to rank 0 first.
  for (int hop = 1; hop < group_.world_size(); ++hop) {
    const int peer = (group_.rank() + hop) % group_.world_size();
    const ElementRange chunk = ChunkOf(peer, group_.world_size(), buffer_elements_);
    for (size_t slot = 0; slot < partials_.size(); ++slot) {
      transfers.push_back({.kind = Transfer::Kind::kSend,
                           .peer = peer,
                           .tag = kPartialTag + static_cast<uint32_t>(slot),
                           .data = At(partials_[slot].buffer, chunk.begin),
                           .bytes = chunk.size() * static_cast<int64_t>(sizeof(float))});
    }
  }
  return group_.ExchangeDevice(transfers, timeout);
}

absl::Status GradientReducer::GatherSum(const at::Tensor& chunk, const at::Tensor& sum,
                                        absl::Duration timeout) {
  std::vector<Transfer> transfers;
  for (int hop = 1; hop < group_.world_size(); ++hop) {
    const int peer = (group_.rank() + hop) % group_.world_size();
    const ElementRange theirs = ChunkOf(peer, group_.world_size(), buffer_elements_);
    transfers.push_back({.kind = Transfer::Kind::kReceive,
                         .peer = peer,
                         .tag = kSumTag,
                         .data = At(sum, theirs.begin),
                         .bytes = theirs.size() * static_cast<int64_t>(sizeof(float))});
    transfers.push_back({.kind = Transfer::Kind::kSend,
                         .peer = peer,
                         .tag = kSumTag,
                         .data = chunk.mutable_data_ptr(),
                         .bytes = chunk.numel() * static_cast<int64_t>(sizeof(float))});
  }
  return group_.ExchangeDevice(transfers, timeout);
}

absl::StatusOr<at::Tensor> GradientReducer::Exchange(absl::Duration timeout) {
  const std::vector<PlannedPartial> plan = PlanPartials(group_.world_size(), microbatches_);
  const ElementRange mine = ChunkOf(group_.rank(), group_.world_size(), buffer_elements_);
  RETURN_IF_ERROR(SendPartials(plan, mine, timeout));

  std::vector<at::Tensor> chunks;
  int64_t row = 0;
  for (const PlannedPartial& partial : plan) {
    chunks.push_back(partial.rank == group_.rank()
                         ? partials_[partial.slot].buffer.narrow(0, mine.begin, mine.size())
                         : received_.narrow(0, row++ * mine.size(), mine.size()));
  }
  for (const PlannedAddition& addition : PlanAdditions(plan, microbatches_)) {
    chunks[addition.into].add_(chunks[addition.from]);
  }
  if (!sum_.defined()) {
    sum_ = at::empty({buffer_elements_}, at::TensorOptions().dtype(at::kFloat).device(device_));
  }
  sum_.narrow(0, mine.begin, mine.size()).copy_(chunks[0]);
  RETURN_IF_ERROR(GatherSum(chunks[0], sum_, timeout));
  return sum_;
}

}  // namespace mindforge
