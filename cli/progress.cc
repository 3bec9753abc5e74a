#include "cli/progress.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/format.h"

namespace mindforge::cli {
namespace {

constexpr int kBarWidth = 20;
constexpr double kSmoothing = 0.1;  // of step times: about the last ten steps
constexpr int64_t kUsualLogInterval = 10;

int64_t Epochs(const v1::JobSpec& spec) {
  return spec.training().has_epochs() ? spec.training().epochs() : 1;
}

// A job's progress as the record of its newest step.
v1::ProgressRecord AsRecord(const v1::Job& job) {
  const v1::JobProgress& progress = job.progress();
  v1::ProgressRecord record;
  record.set_step(progress.step());
  record.set_total_steps(progress.total_steps());
  record.set_epoch(progress.epoch());
  record.set_generation(job.generation());
  record.set_world_size(progress.world_size());
  record.set_loss(progress.loss());
  record.set_learning_rate(progress.learning_rate());
  record.set_gradient_norm(progress.gradient_norm());
  record.set_tokens_per_second(progress.tokens_per_second());
  record.set_skipped_steps(progress.skipped_steps());
  if (progress.has_loss_scale()) record.set_loss_scale(progress.loss_scale());
  return record;
}

std::string Bar(double share) {
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBarWidth);
  std::string bar;
  for (int i = 0; i < kBarWidth; ++i) bar += i < full ? "█" : "░";
  return bar;
}

}  // namespace

ProgressView::ProgressView(std::ostream& out, Terminal terminal, bool quiet)
    : out_(out), terminal_(terminal), quiet_(quiet) {}

void ProgressView::OnJob(const v1::Job& job) {
  const bool said = job.state() == job_.state() && job.reason() == job_.reason() &&
                    job.generation() == job_.generation();
  job_ = job;
  const bool final = IsFinal(job.state());
  if ((use_job_progress_ || final) && job.progress().step() > last_.step()) OnStep(AsRecord(job));
  if (final) Finish();
  if (!said) {
    Say(absl::StrCat(job.spec().name(), " ", StateName(job.state()),
                     job.reason().empty() ? "" : ": ", job.reason()));
  }
}

void ProgressView::OnStep(const v1::ProgressRecord& record) {
  if (has_step_ && record.step() < last_.step()) return;
  if (record.step_seconds() > 0) {
    step_seconds_ = step_seconds_ > 0
                        ? step_seconds_ + kSmoothing * (record.step_seconds() - step_seconds_)
                        : record.step_seconds();
  }
  // The job's own progress knows less than the step's record: it does not replace it.
  if (has_step_ && record.step() == last_.step() && record.step_seconds() == 0) return;
  last_ = record;
  has_step_ = true;
  if (quiet_) return;
  if (terminal_.redraws()) {
    Draw();
    return;
  }
  const int64_t interval = std::max<int64_t>(
      1, job_.spec().has_log_every_steps() ? job_.spec().log_every_steps() : kUsualLogInterval);
  if (printed_step_ >= 0 && record.step() / interval == printed_step_ / interval) return;
  if (record.step() <= printed_step_) return;
  out_ << LogLine(job_.spec(), last_, TimeLeft()) << std::endl;
  printed_step_ = record.step();
}

void ProgressView::Say(const std::string& line) {
  if (quiet_) return;
  Clear();
  out_ << EscapeControls(line) << std::endl;
  if (terminal_.redraws() && has_step_ && !IsFinal(job_.state())) Draw();
}

void ProgressView::Finish() {
  if (quiet_) return;
  if (terminal_.redraws()) {
    if (drawn_) out_ << std::endl;
    drawn_ = false;
  } else if (has_step_ && last_.step() > printed_step_) {
    out_ << LogLine(job_.spec(), last_, TimeLeft()) << std::endl;
    printed_step_ = last_.step();
  }
}

std::string ProgressView::LogLine(const v1::JobSpec& spec, const v1::ProgressRecord& record,
                                  absl::Duration time_left) {
  const int64_t epochs = Epochs(spec);
  const int64_t epoch =
      std::clamp<int64_t>(std::ceil(record.epoch()), 1, std::max<int64_t>(1, epochs));
  std::string line = absl::StrFormat(
      "Epoch:[%d/%d](%d/%d) loss:%.6f lr:%.12f epoch_Time:%.1fmin: tokens/s:%.0f ranks:%d", epoch,
      epochs, record.step(), record.total_steps(), record.loss(), record.learning_rate(),
      absl::ToDoubleMinutes(time_left), record.tokens_per_second(), record.world_size());
  if (record.sequences_by_rank_size() > 1) {
    absl::StrAppend(&line, " sequences:", absl::StrJoin(record.sequences_by_rank(), "+"));
  }
  if (record.has_validation_loss()) {
    absl::StrAppendFormat(&line, " validation:%.6f", record.validation_loss());
  }
  if (record.has_loss_scale()) absl::StrAppendFormat(&line, " scale:%g", record.loss_scale());
  if (record.skipped_steps() > 0) absl::StrAppend(&line, " skipped:", record.skipped_steps());
  return line;
}

std::string ProgressView::BarLine(const v1::Job& job, const v1::ProgressRecord& record,
                                  absl::Duration time_left, int width) {
  const double share =
      record.total_steps() > 0 ? static_cast<double>(record.step()) / record.total_steps() : 0;
  std::string loss = absl::StrCat("loss ", Loss(record.loss()));
  if (job.progress().first_loss() > 0) {
    absl::StrAppend(&loss, " (from ", absl::StrFormat("%.2f", job.progress().first_loss()), ")");
  }
  const int ranks = record.world_size();
  // Most important first: what does not fit is left out from the end.
  std::vector<std::string> parts = {
      absl::StrFormat("%s/%s", Grouped(record.step()), Grouped(record.total_steps())),
      loss,
      absl::StrCat(ShortDuration(time_left), " left"),
      absl::StrFormat("%s tok/s", Grouped(std::llround(record.tokens_per_second()))),
      absl::StrFormat("lr %.2e", record.learning_rate()),
      absl::StrCat(ranks, ranks == 1 ? " rank" : " ranks"),
  };
  std::string line =
      absl::StrCat(job.spec().name(), " ", Bar(share), absl::StrFormat(" %3.0f%%", share * 100));
  if (width > 0 && width < 60) line = absl::StrFormat("%3.0f%%", share * 100);
  for (const std::string& part : parts) {
    const std::string longer = absl::StrCat(line, "  ", part);
    if (width > 0 && DisplayWidth(longer) > width) break;
    line = longer;
  }
  return width > 0 ? FitWidth(line, width) : line;
}

void ProgressView::Draw() {
  // A line of the full width wraps on some terminals.
  const std::string line = BarLine(job_, last_, TimeLeft(), std::max(1, terminal_.width - 1));
  out_ << "\r\x1b[K" << EscapeControls(line) << std::flush;
  drawn_ = true;
}

void ProgressView::Clear() {
  if (drawn_) out_ << "\r\x1b[K";
  drawn_ = false;
}

absl::Duration ProgressView::TimeLeft() const {
  const int64_t steps = std::max<int64_t>(0, last_.total_steps() - last_.step());
  if (step_seconds_ > 0) return absl::Seconds(static_cast<double>(steps) * step_seconds_);
  return ToDuration(job_.progress().time_left());
}

}  // namespace mindforge::cli
