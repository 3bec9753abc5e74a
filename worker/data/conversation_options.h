// How the conversations of a dataset are changed before they are learned: the reference's two
// random changes, off by default.
#pragma once

#include <cstdint>

namespace mindforge {

struct ConversationOptions {
  // Shares of the conversations, in [0, 1].
  double random_system_fraction = 0;     // of those without system message and tools: get one
  double drop_empty_think_fraction = 0;  // their empty think blocks are left out
  uint64_t seed = 42;                    // the draws are keyed by it and a line's place
};

}  // namespace mindforge
