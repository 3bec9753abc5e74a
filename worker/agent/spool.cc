#include "worker/agent/spool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace mindforge {
namespace {

template <typename Spooled>
void ForgetUpTo(int64_t number, std::deque<Spooled>& queue) {
  while (!queue.empty() && queue.front().number() <= number) queue.pop_front();
}

}  // namespace

void Spool::AddProgress(const std::string& job_id, const v1::ProgressRecord& record) {
  v1::SpooledProgress spooled;
  spooled.set_number(++progress_number_);
  spooled.set_job_id(job_id);
  *spooled.mutable_record() = record;
  progress_.push_back(std::move(spooled));
  ++added_;
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
  spooled.set_number(++log_number_);
  spooled.set_job_id(job_id);
  *spooled.mutable_line() = line;
  log_bytes_ += line.text().size();
  logs_.push_back(std::move(spooled));
  ++added_;
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
    if (waiting.checkpoint().path() == checkpoint.path()) return;
  }
  v1::SpooledCheckpoint spooled;
  spooled.set_number(++checkpoint_number_);
  spooled.set_job_id(job_id);
  *spooled.mutable_checkpoint() = checkpoint;
  checkpoints_.push_back(std::move(spooled));
  ++added_;
  // Nothing is lost with an old report: the folder stays, and the newest is what matters.
  if (checkpoints_.size() > limits_.checkpoints) checkpoints_.pop_front();
}

void Spool::AddCorruption(const std::string& job_id, const v1::CheckpointCorrupt& corruption) {
  v1::SpooledCorruption spooled;
  spooled.set_number(++corruption_number_);
  spooled.set_job_id(job_id);
  *spooled.mutable_corruption() = corruption;
  corruptions_.push_back(std::move(spooled));
  ++added_;
  if (corruptions_.size() > limits_.checkpoints) corruptions_.pop_front();
}

bool Spool::Fill(v1::SynchronizeRequest* request) const {
  const auto limit = static_cast<size_t>(limits_.records_a_call);
  for (size_t i = 0; i < std::min(limit, progress_.size()); ++i) {
    *request->add_progress() = progress_[i];
  }
  if (gap_lines_ > 0) *request->add_logs() = gap_;
  size_t bytes = 0;
  size_t lines = 0;
  while (lines < std::min(limit, logs_.size()) && bytes < limits_.log_bytes_a_call) {
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
  return acknowledged;
}

bool Spool::empty() const {
  return progress_.empty() && logs_.empty() && gap_lines_ == 0 && checkpoints_.empty() &&
         corruptions_.empty();
}

}  // namespace mindforge
