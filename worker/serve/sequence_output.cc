#include "worker/serve/sequence_output.h"

#include <utility>

#include "common/utf8.h"

namespace mindforge {
namespace {

constexpr size_t kMostDeltaBytes = 64 << 10;

}  // namespace

v1::TokenLogprob ToProto(const Tokenizer& tokenizer, const TokenLogprob& token,
                         const std::vector<TokenLogprob>& top) {
  v1::TokenLogprob proto;
  const auto fill = [&tokenizer](const TokenLogprob& from, v1::TokenLogprob& to) {
    to.set_token_id(from.token);
    to.set_logprob(from.logprob);
    to.set_token(SanitizeUtf8(tokenizer.TokenBytes(from.token)));
  };
  fill(token, proto);
  for (const TokenLogprob& one : top) fill(one, *proto.add_top());
  return proto;
}

SequenceOutput::SequenceOutput(const Tokenizer& tokenizer, const OutputPlan& plan, int32_t index)
    : tokenizer_(tokenizer),
      plan_(plan),
      decoder_(tokenizer, {.skip_special_tokens = true}),
      matcher_(plan.stop_strings) {
  delta_.set_index(index);
}

void SequenceOutput::AddText(int32_t token, bool ends) {
  ++tokens_;
  if (ends) return;
  std::string text = decoder_.Push(token);
  // Before min_new_tokens nothing may end the sequence, so stop strings are ordinary text.
  if (tokens_ > plan_.min_new_tokens) text = matcher_.Push(text);
  delta_.mutable_text()->append(text);
}

bool SequenceOutput::Add(const TokenInfo& token, absl::Duration now) {
  if (gathered_++ == 0) gathering_since_ = now;
  AddText(token.token, token.ends);
  if (plan_.token_ids) delta_.add_token_ids(token.token);
  if (plan_.logprobs) {
    v1::TokenLogprob& logprob = *delta_.add_logprobs();
    logprob = ToProto(tokenizer_, {token.token, token.logprob}, token.top);
    gathered_bytes_ += logprob.ByteSizeLong();
  }
  gathered_bytes_ += sizeof(token.token);
  return !matcher_.matched();
}

bool SequenceOutput::Replay(int32_t token, bool ends) {
  AddText(token, ends);
  ++replayed_;
  delta_.clear_text();
  return !matcher_.matched();
}

bool SequenceOutput::Due(absl::Duration now) const {
  if (gathered_ == 0) return false;
  if (gathered_bytes_ + delta_.text().size() >= kMostDeltaBytes) return true;
  return gathered_ >= plan_.flush_tokens || now - gathering_since_ >= plan_.flush_interval;
}

void SequenceOutput::End() {
  // An unfinished character is certain now, and may complete a stop string no more than it did.
  delta_.mutable_text()->append(matcher_.Push(decoder_.Flush()));
  delta_.mutable_text()->append(matcher_.Flush());
}

bool SequenceOutput::HasDelta() const { return gathered_ > 0 || !delta_.text().empty(); }

v1::GenerationDelta SequenceOutput::TakeDelta() {
  gathered_ = 0;
  gathered_bytes_ = 0;
  v1::GenerationDelta taken;
  taken.set_index(delta_.index());
  taken.Swap(&delta_);
  delta_.set_index(taken.index());
  return taken;
}

}  // namespace mindforge
