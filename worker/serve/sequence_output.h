// One sequence's way from token ids to deltas: text in whole characters, nothing of a stop string,
// and as many tokens a delta as the caller asked for.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "mindforge/v1/inference_service.pb.h"
#include "worker/infer/engine.h"
#include "worker/serve/generation_plan.h"
#include "worker/serve/stop_strings.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

// For one thread at a time. Borrows tokenizer and plan. Token ids are those that were drawn, the
// end token and those of a stop string included; text is without either.
class SequenceOutput {
 public:
  SequenceOutput(const Tokenizer& tokenizer, const OutputPlan& plan, int32_t index);

  // Takes a token. False when its text completes a stop string.
  bool Add(const TokenInfo& token, absl::Duration now);
  // A token that was delivered by an earlier attempt: counts, but is not delivered again. Text held
  // back by then comes with later tokens, as it would have.
  bool Replay(int32_t token, bool ends);

  // Enough has gathered for a delta, by the plan or because it would grow beyond what is good to
  // send in one piece.
  bool Due(absl::Duration now) const;
  // No more tokens: releases what was held back.
  void End();
  // What has gathered.
  bool HasDelta() const;
  v1::GenerationDelta TakeDelta();

  // Without replayed ones: who delivered those has counted them.
  int64_t tokens() const { return tokens_ - replayed_; }

 private:
  void AddText(int32_t token, bool ends);

  const Tokenizer& tokenizer_;
  const OutputPlan& plan_;
  StreamingDecoder decoder_;
  StopStringMatcher matcher_;
  v1::GenerationDelta delta_;
  int64_t tokens_ = 0;
  int64_t replayed_ = 0;       // of them
  int64_t gathered_ = 0;       // tokens
  size_t gathered_bytes_ = 0;  // about
  absl::Duration gathering_since_;
};

v1::TokenLogprob ToProto(const Tokenizer& tokenizer, const TokenLogprob& token,
                         const std::vector<TokenLogprob>& top);

}  // namespace mindforge
