// Whether two tokenizers mean the same by their ids: weights that were trained with one know
// nothing of another's, whatever their shapes say.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace mindforge {

class Tokenizer;

// The first id that both have and that is another token to the tokenizer at `path` (as for
// Tokenizer::Load) than to `tokenizer`, in words; empty when there is none. Errors as
// Tokenizer::Load.
absl::StatusOr<std::string> VocabularyMismatch(const std::string& path, const Tokenizer& tokenizer);

}  // namespace mindforge
