// MiniMind's tokenizer, loaded once.
#pragma once

#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

inline const Tokenizer& MiniMind() {
  static const Tokenizer* const tokenizer = [] {
    auto loaded = Tokenizer::Load(TestData("tokenizer"));
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded->release();
  }();
  return *tokenizer;
}

}  // namespace mindforge
