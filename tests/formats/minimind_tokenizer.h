// MiniMind's tokenizers, each loaded once.
#pragma once

#include <string>

#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

inline const Tokenizer& LoadedOnce(const std::string& name) {
  auto loaded = Tokenizer::Load(TestData(name));
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return *loaded->release();
}

inline const Tokenizer& MiniMind() {
  static const Tokenizer& tokenizer = LoadedOnce("tokenizer");
  return tokenizer;
}

inline const Tokenizer& MiniMind3() {
  static const Tokenizer& tokenizer = LoadedOnce("tokenizer3");
  return tokenizer;
}

}  // namespace mindforge
