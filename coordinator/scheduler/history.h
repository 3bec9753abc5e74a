// What is kept of a job's past and read back in pages: the scheduler only ever adds to it.
#pragma once

#include <cstdint>
#include <string>

namespace mindforge {

struct StoredProgress {
  int64_t step = 0;
  std::string bytes;  // the serialized ProgressRecord
};

struct StoredLog {
  int64_t number = 0;
  int rank = -1;
  std::string bytes;  // the serialized LogLine
};

}  // namespace mindforge
