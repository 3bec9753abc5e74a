#include "worker/data/line_encoder.h"

#include "common/status_macros.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

absl::Status TextEncoder::Encode(const NumberedLine& line, int64_t /*file*/,
                                 std::vector<int32_t>* ids) const {
  ASSIGN_OR_RETURN(const std::string text, TextOfLine(line));
  if (ids != nullptr) tokenizer_.EncodeAppend(text, ids);
  return absl::OkStatus();
}

}  // namespace mindforge
