#include "worker/dist/reduction_tree.h"

#include <algorithm>

#include "common/check.h"

namespace mindforge {
namespace {

constexpr int64_t kChunkAlignment = 16;

void CollectPartials(MicrobatchRange node, MicrobatchRange run,
                     std::vector<MicrobatchRange>* partials) {
  if (node.end <= run.begin || run.end <= node.begin) return;
  if (run.begin <= node.begin && node.end <= run.end) {
    partials->push_back(node);
    return;
  }
  const int64_t split = SplitOf(node);
  CollectPartials({node.begin, split}, run, partials);
  CollectPartials({split, node.end}, run, partials);
}

// Plans the sum of `node`; returns the partial that holds it. `next` is the first partial that is
// not used yet.
int PlanNode(MicrobatchRange node, const std::vector<PlannedPartial>& partials, size_t* next,
             std::vector<PlannedAddition>* additions) {
  MF_CHECK_LT(*next, partials.size());
  if (partials[*next].range == node) return static_cast<int>((*next)++);
  const int64_t split = SplitOf(node);
  const int left = PlanNode({node.begin, split}, partials, next, additions);
  const int right = PlanNode({split, node.end}, partials, next, additions);
  additions->push_back({.into = left, .from = right});
  return left;
}

}  // namespace

int64_t SplitOf(MicrobatchRange node) {
  MF_CHECK_GE(node.size(), 2);
  int64_t left = 1;
  while (left * 2 < node.size()) left *= 2;
  return node.begin + left;
}

bool AreSiblings(MicrobatchRange left, MicrobatchRange right, int64_t microbatches) {
  if (left.empty() || right.empty() || left.end != right.begin) return false;
  MicrobatchRange node{0, microbatches};
  while (node.size() >= 2) {
    const int64_t split = SplitOf(node);
    if (node.begin == left.begin && node.end == right.end) return split == left.end;
    if (right.end <= split) {
      node.end = split;
    } else if (split <= left.begin) {
      node.begin = split;
    } else {
      return false;
    }
  }
  return false;
}

MicrobatchRange RunOf(int rank, int world_size, int64_t microbatches) {
  MF_CHECK(rank >= 0 && rank < world_size) << "rank " << rank << " of " << world_size;
  return {.begin = rank * microbatches / world_size, .end = (rank + 1) * microbatches / world_size};
}

std::vector<MicrobatchRange> PartialsOf(MicrobatchRange run, int64_t microbatches) {
  std::vector<MicrobatchRange> partials;
  if (!run.empty()) CollectPartials({0, microbatches}, run, &partials);
  return partials;
}

ElementRange ChunkOf(int owner, int world_size, int64_t elements) {
  MF_CHECK(owner >= 0 && owner < world_size) << "owner " << owner << " of " << world_size;
  const int64_t lines = (elements + kChunkAlignment - 1) / kChunkAlignment;
  const auto boundary = [&](int64_t part) {
    return std::min(elements, part * lines / world_size * kChunkAlignment);
  };
  return {.begin = boundary(owner),
          .end = owner + 1 == world_size ? elements : boundary(owner + 1)};
}

std::vector<PlannedPartial> PlanPartials(int world_size, int64_t microbatches) {
  std::vector<PlannedPartial> plan;
  for (int rank = 0; rank < world_size; ++rank) {
    int slot = 0;
    for (const MicrobatchRange& range :
         PartialsOf(RunOf(rank, world_size, microbatches), microbatches)) {
      plan.push_back({.range = range, .rank = rank, .slot = slot++});
    }
  }
  return plan;
}

std::vector<PlannedAddition> PlanAdditions(const std::vector<PlannedPartial>& partials,
                                           int64_t microbatches) {
  MF_CHECK_GE(microbatches, 1);
  std::vector<PlannedAddition> additions;
  size_t next = 0;
  const int root = PlanNode({0, microbatches}, partials, &next, &additions);
  MF_CHECK_EQ(root, 0);
  MF_CHECK_EQ(next, partials.size());
  return additions;
}

}  // namespace mindforge
