#include "worker/agent/spool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace mindforge {
namespace {

template <typename Spooled>
void ForgetUpTo(int64_t number, std::deque<Spooled>& queue) {
  while (!queue.empty() && queue.front().number() <= number) queue.pop_front();
}

}  // namespace

Spool::Spool(SpoolFile* file, SpoolLimits limits) : file_(file), limits_(limits) {
  if (file_ == nullptr) return;
  used_ = file_->Replay(
      [this](SpoolKind kind, int64_t, std::string_view bytes) { Restore(kind, bytes); });
  const size_t restored =
      progress_.size() + logs_.size() + checkpoints_.size() + corruptions_.size();
  if (restored > 0) {
    MF_LOG(INFO) << restored
                 << " records were spooled before this start; the coordinator is told of "
                 << "those that it has not heard";
  }
}

void Spool::Restore(SpoolKind kind, std::string_view bytes) {
  const auto parse = [&](auto spooled) {
    spooled.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
    return spooled;
  };
  // One that was carried over to a newer segment comes twice.
  const auto push = [](auto spooled, auto& queue) {
    if (!queue.empty() && spooled.number() <= queue.back().number()) return;
    queue.push_back(std::move(spooled));
  };
  switch (kind) {
    case SpoolKind::kProgress:
      return Push(parse(v1::SpooledProgress()));
    case SpoolKind::kLog:
      return Push(parse(v1::SpooledLog()));
    case SpoolKind::kCheckpoint:
      return push(parse(v1::SpooledCheckpoint()), checkpoints_);
    case SpoolKind::kCorruption:
      return push(parse(v1::SpooledCorruption()), corruptions_);
  }
}

template <typename Spooled>
bool Spool::Append(SpoolKind kind, const Spooled& spooled) {
  return file_ != nullptr && file_->Append(kind, spooled.number(), spooled.SerializeAsString());
}

template <typename Spooled>
void Spool::CarryOver(SpoolKind kind, const std::deque<Spooled>& queue) {
  const int64_t segment = file_->segment();
  for (const Spooled& spooled : queue) {
    file_->Append(kind, spooled.number(), spooled.SerializeAsString());
    if (file_->failing()) return;
  }
  file_->IsRepeatedFrom(segment, kind);
}

void Spool::CarryOver() {
  CarryOver(SpoolKind::kCheckpoint, checkpoints_);
  CarryOver(SpoolKind::kCorruption, corruptions_);
  ForgetInFile();
}

void Spool::AddProgress(const std::string& job_id, const v1::ProgressRecord& record) {
  v1::SpooledProgress spooled;
  spooled.set_number(++used_[SpoolKind::kProgress]);
  spooled.set_job_id(job_id);
  *spooled.mutable_record() = record;
  const bool begun = Append(SpoolKind::kProgress, spooled);
  Push(std::move(spooled));
  if (begun) CarryOver();
}

void Spool::Push(v1::SpooledProgress spooled) {
  progress_.push_back(std::move(spooled));
  if (progress_.size() <= limits_.progress) return;
  if (dropped_progress_++ == 0) {
    MF_LOG(ERROR) << "job " << progress_.front().job_id() << ": the coordinator has been away for "
                  << limits_.progress << " steps; the oldest steps' records are dropped from now on"
                  << " (the training itself is not affected)";
  }
  progress_.pop_front();
}

void Spool::AddLog(const std::string& job_id, const v1::LogLine& line) {
  v1::SpooledLog spooled;
  spooled.set_number(++used_[SpoolKind::kLog]);
  spooled.set_job_id(job_id);
  *spooled.mutable_line() = line;
  const bool begun = Append(SpoolKind::kLog, spooled);
  Push(std::move(spooled));
  if (begun) CarryOver();
}

void Spool::Push(v1::SpooledLog spooled) {
  log_bytes_ += spooled.line().text().size();
  logs_.push_back(std::move(spooled));
  while (logs_.size() > limits_.logs || log_bytes_ > limits_.log_bytes) DropOldestLog();
}

void Spool::DropOldestLog() {
  log_bytes_ -= logs_.front().line().text().size();
  gap_ = std::move(logs_.front());
  logs_.pop_front();
  ++gap_lines_;
  ++dropped_logs_;
  gap_.mutable_line()->set_rank(-1);
  gap_.mutable_line()->set_level(v1::LOG_LEVEL_WARNING);
  gap_.mutable_line()->set_text(absl::StrCat(
      gap_lines_, " log lines were dropped here: the coordinator was away for too long"));
}

void Spool::AddCheckpoint(const std::string& job_id, const v1::CheckpointWritten& checkpoint) {
  for (const v1::SpooledCheckpoint& waiting : checkpoints_) {
    if (waiting.checkpoint().path() != checkpoint.path()) continue;
    if (waiting.checkpoint().final() || !checkpoint.final()) return;
  }
  v1::SpooledCheckpoint spooled;
  spooled.set_number(++used_[SpoolKind::kCheckpoint]);
  spooled.set_job_id(job_id);
  *spooled.mutable_checkpoint() = checkpoint;
  const bool begun = Append(SpoolKind::kCheckpoint, spooled);
  checkpoints_.push_back(std::move(spooled));
  // Nothing is lost with an old report: the folder stays, and the newest is what matters.
  if (checkpoints_.size() > limits_.checkpoints) checkpoints_.pop_front();
  if (begun) CarryOver();
}

void Spool::AddCorruption(const std::string& job_id, const v1::CheckpointCorrupt& corruption) {
  v1::SpooledCorruption spooled;
  spooled.set_number(++used_[SpoolKind::kCorruption]);
  spooled.set_job_id(job_id);
  *spooled.mutable_corruption() = corruption;
  const bool begun = Append(SpoolKind::kCorruption, spooled);
  corruptions_.push_back(std::move(spooled));
  if (corruptions_.size() > limits_.checkpoints) corruptions_.pop_front();
  if (begun) CarryOver();
}

bool Spool::Fill(v1::SynchronizeRequest* request) const {
  const auto limit = static_cast<size_t>(limits_.records_a_call);
  for (size_t i = 0; i < std::min(limit, progress_.size()); ++i) {
    *request->add_progress() = progress_[i];
  }
  if (gap_lines_ > 0) *request->add_logs() = gap_;
  const size_t room = limit - static_cast<size_t>(request->logs_size());
  size_t bytes = 0;
  size_t lines = 0;
  while (lines < std::min(room, logs_.size()) && bytes < limits_.log_bytes_a_call) {
    bytes += logs_[lines].line().text().size();
    *request->add_logs() = logs_[lines++];
  }
  for (size_t i = 0; i < std::min(limit, checkpoints_.size()); ++i) {
    *request->add_checkpoints() = checkpoints_[i];
  }
  for (size_t i = 0; i < std::min(limit, corruptions_.size()); ++i) {
    *request->add_corruptions() = corruptions_[i];
  }
  return progress_.size() > limit || logs_.size() > lines || checkpoints_.size() > limit ||
         corruptions_.size() > limit;
}

std::vector<v1::SpooledCheckpoint> Spool::Acknowledge(const v1::SynchronizeResponse& response) {
  ForgetUpTo(response.progress_acknowledged(), progress_);
  if (gap_lines_ > 0 && gap_.number() <= response.logs_acknowledged()) gap_lines_ = 0;
  while (!logs_.empty() && logs_.front().number() <= response.logs_acknowledged()) {
    log_bytes_ -= logs_.front().line().text().size();
    logs_.pop_front();
  }
  std::vector<v1::SpooledCheckpoint> acknowledged;
  while (!checkpoints_.empty() &&
         checkpoints_.front().number() <= response.checkpoints_acknowledged()) {
    acknowledged.push_back(std::move(checkpoints_.front()));
    checkpoints_.pop_front();
  }
  ForgetUpTo(response.corruptions_acknowledged(), corruptions_);
  ForgetInFile();
  return acknowledged;
}

void Spool::ForgetInFile() {
  if (file_ == nullptr) return;
  const auto oldest = [&](const auto& queue, SpoolKind kind) {
    return queue.empty() ? used_[kind] + 1 : queue.front().number();
  };
  SpoolNumbers waiting;
  waiting[SpoolKind::kProgress] = oldest(progress_, SpoolKind::kProgress);
  waiting[SpoolKind::kLog] = oldest(logs_, SpoolKind::kLog);
  waiting[SpoolKind::kCheckpoint] = oldest(checkpoints_, SpoolKind::kCheckpoint);
  waiting[SpoolKind::kCorruption] = oldest(corruptions_, SpoolKind::kCorruption);
  file_->Forget(waiting);
}

bool Spool::empty() const {
  return progress_.empty() && logs_.empty() && gap_lines_ == 0 && checkpoints_.empty() &&
         corruptions_.empty();
}

}  // namespace mindforge
