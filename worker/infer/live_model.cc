#include "worker/infer/live_model.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace mindforge {

LiveModel::LiveModel(std::unique_ptr<ModelRunner> runner, std::string weights_version,
                     const EngineOptions& options)
    : runner_(std::move(runner)),
      weights_version_(std::move(weights_version)),
      prefill_chunk_tokens_(options.prefill_chunk_tokens),
      prefill_alone_tokens_(options.prefill_alone_tokens) {
  MF_CHECK_GT(runner_->slots(), 0);
  MF_CHECK_GT(runner_->max_batch_tokens(), runner_->slots())
      << "a step must have room for every slot's decode and some prefill";
  for (int64_t slot = runner_->slots() - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

EngineModel LiveModel::Describe() const {
  return {.weights_version = weights_version_,
          .numerics_id = runner_->numerics_id(),
          .vocab_size = runner_->vocab_size(),
          .max_context = runner_->max_context(),
          .slots = runner_->slots()};
}

int64_t LiveModel::kv_tokens_used() const {
  int64_t used = 0;
  for (const auto& sequence : sequences_) used += sequence->computed();
  return used;
}

int64_t LiveModel::kv_tokens_total() const { return runner_->slots() * runner_->max_context(); }

void LiveModel::Admit(std::unique_ptr<Sequence> sequence) {
  MF_CHECK(!free_slots_.empty());
  sequence->Start(*runner_, weights_version_, free_slots_.back());
  free_slots_.pop_back();
  sequences_.push_back(std::move(sequence));
}

std::vector<uint64_t> LiveModel::EndWhere(const EndOf& end) {
  std::vector<uint64_t> ended;
  std::erase_if(sequences_, [&](const std::unique_ptr<Sequence>& sequence) {
    const std::optional<SequenceEnd> reason = end(*sequence);
    if (!reason.has_value()) return false;
    sequence->Finish(*reason);
    free_slots_.push_back(sequence->slot());
    ended.push_back(sequence->id());
    return true;
  });
  return ended;
}

std::vector<Sequence*> LiveModel::BuildBatch() {
  batch_.rows.clear();
  std::vector<Sequence*> members;
  for (const auto& sequence : sequences_) {
    if (!sequence->decoding()) continue;
    members.push_back(sequence.get());
    batch_.rows.push_back(sequence->NextRow(1));
  }
  const auto decodes = static_cast<int64_t>(members.size());
  int64_t budget = std::min(decodes > 0 ? prefill_chunk_tokens_ : prefill_alone_tokens_,
                            runner_->max_batch_tokens() - decodes);
  for (const auto& sequence : sequences_) {
    if (sequence->decoding() || budget <= 0) continue;
    members.push_back(sequence.get());
    batch_.rows.push_back(sequence->NextRow(budget));
    budget -= static_cast<int64_t>(batch_.rows.back().tokens.size());
  }
  return members;
}

StepFigures LiveModel::Step(std::vector<uint64_t>& ended) {
  const std::vector<Sequence*> members = BuildBatch();
  if (members.empty()) return {};
  const int64_t vocab = runner_->vocab_size();
  const auto needed = static_cast<size_t>(batch_.LogitsCount() * vocab);
  if (logits_.size() < needed) logits_.resize(needed);
  const absl::Status status = runner_->Forward(batch_, logits_.data());

  StepFigures figures{.rows = static_cast<int64_t>(members.size()), .status = status};
  std::vector<std::pair<uint64_t, SequenceEnd>> ends;
  const float* logits = logits_.data();
  for (size_t i = 0; i < members.size(); ++i) {
    const StepRow& row = batch_.rows[i];
    const int64_t before = members[i]->generated();
    if (before == 0) figures.prefill_tokens += static_cast<int64_t>(row.tokens.size());
    const std::optional<SequenceEnd> end =
        status.ok() ? members[i]->Take(row, logits) : SequenceEnd{FinishReason::kFailed, status};
    logits += row.logits * vocab;
    figures.generated_tokens += members[i]->generated() - before;
    if (end.has_value()) ends.emplace_back(members[i]->id(), *end);
  }
  if (ends.empty()) return figures;
  const std::vector<uint64_t> ids =
      EndWhere([&](const Sequence& sequence) -> std::optional<SequenceEnd> {
        for (const auto& [id, end] : ends) {
          if (id == sequence.id()) return end;
        }
        return std::nullopt;
      });
  ended.insert(ended.end(), ids.begin(), ids.end());
  return figures;
}

}  // namespace mindforge
