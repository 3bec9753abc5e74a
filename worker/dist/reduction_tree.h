// The canonical tree in which a step's gradients are added, as plain intervals of microbatches. It
// does not know ranks' addresses, tensors or transports. The surprising part: the shape depends on
// the number of microbatches alone, so a sum has the same bits for every world size; floating-point
// addition commutes but does not associate, and this fixes how it associates.
#pragma once

#include <cstdint>
#include <vector>

namespace mindforge {

// Microbatches [begin, end).
struct MicrobatchRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  bool empty() const { return begin >= end; }
  bool operator==(const MicrobatchRange&) const = default;
};

// Elements [begin, end) of a flat buffer.
struct ElementRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  bool operator==(const ElementRange&) const = default;
};

// Where a node of two leaves or more splits: its left child takes the largest power of two smaller
// than its size. REQUIRES: node.size() >= 2.
int64_t SplitOf(MicrobatchRange node);

// True when [left.begin, right.end) is a node of the tree over `microbatches` leaves whose children
// are exactly `left` and `right`.
bool AreSiblings(MicrobatchRange left, MicrobatchRange right, int64_t microbatches);

// The contiguous run that `rank` of `world_size` computes; may be empty when there are fewer
// microbatches than ranks. Runs cover all microbatches in rank order and differ by at most one.
MicrobatchRange RunOf(int rank, int world_size, int64_t microbatches);

// The maximal complete subtrees inside `run`, from left to right: what a rank sends.
std::vector<MicrobatchRange> PartialsOf(MicrobatchRange run, int64_t microbatches);

// The part of a buffer of `elements` that `owner` sums for all. Boundaries fall on multiples of 16
// elements, so that every chunk starts on a cache line.
ElementRange ChunkOf(int owner, int world_size, int64_t elements);

// One partial sum of a step, and who holds it.
struct PlannedPartial {
  MicrobatchRange range;
  int rank = 0;
  int slot = 0;  // place among that rank's partials
};

// All partials of a step over `world_size` ranks, from left to right.
std::vector<PlannedPartial> PlanPartials(int world_size, int64_t microbatches);

// One addition `into += from`, both indices of partials as PlanPartials lists them.
struct PlannedAddition {
  int into = 0;
  int from = 0;
  bool operator==(const PlannedAddition&) const = default;
};

// The additions that turn the partials into the sum of the whole tree, in order; it ends up in
// partial 0. REQUIRES: microbatches >= 1.
std::vector<PlannedAddition> PlanAdditions(const std::vector<PlannedPartial>& partials,
                                           int64_t microbatches);

}  // namespace mindforge
