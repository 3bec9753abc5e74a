// What the name of serving's arithmetic promises.
#pragma once

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace mindforge {

// Begins the ids of arithmetic whose bits depend on what else is computed: a library multiplies,
// and chooses how by the number of rows.
inline constexpr char kBatchDependentPrefix[] = "torch-";

// A stream of this numerics_id can be continued by another worker with the same id and weights: its
// tokens do not depend on the batch. No id promises nothing.
inline bool ContinuesExactly(absl::string_view numerics_id) {
  return !numerics_id.empty() && !absl::StartsWith(numerics_id, kBatchDependentPrefix);
}

}  // namespace mindforge
