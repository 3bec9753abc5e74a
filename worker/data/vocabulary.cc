#include "worker/data/vocabulary.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

absl::StatusOr<std::string> VocabularyMismatch(const std::string& path,
                                               const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> other, Tokenizer::Load(path));
  if (other->digest() == tokenizer.digest()) return std::string();
  const int64_t both = std::min(other->vocab_size(), tokenizer.vocab_size());
  for (int32_t id = 0; id < both; ++id) {
    if (other->TokenString(id) == tokenizer.TokenString(id)) continue;
    return absl::StrCat("id ", id, " is '", std::string(other->TokenString(id)),
                        "' to its tokenizer and '", std::string(tokenizer.TokenString(id)),
                        "' to the job's");
  }
  return std::string();
}

}  // namespace mindforge
