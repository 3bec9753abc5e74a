#include "coordinator/scheduler/retry.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mindforge::sched {
namespace {

// "killed by signal 9", but not "signal 90".
bool KilledBy(absl::string_view cause, int signal) {
  const std::string text = absl::StrCat("signal ", signal);
  const size_t at = cause.find(text);
  if (at == absl::string_view::npos) return false;
  const size_t end = at + text.size();
  return end == cause.size() || !absl::ascii_isdigit(cause[end]);
}

// Each thing once: a message usually says what its problems say, with the fields or without.
std::string InWords(const TrainerExit& exit) {
  std::string text = exit.message.empty() ? exit.cause : exit.message;
  std::string problems;
  bool all_said = true;
  for (const FieldProblem& problem : exit.problems) {
    const std::string full = absl::StrCat(problem.field, ": ", problem.description);
    all_said = all_said && absl::StrContains(text, full);
    absl::StrAppend(&problems, problems.empty() ? "" : "; ", full);
  }
  if (!all_said && absl::StrContains(problems, text)) {
    text = problems;
  } else if (!all_said) {
    absl::StrAppend(&text, "; ", problems);
  }
  return text.empty() ? "its trainer ended for no stated reason" : text;
}

}  // namespace

Judgement Judge(const TrainerExit& exit, Phase phase) {
  if (exit.clean && (phase == Phase::kFinished || phase == Phase::kStopped)) {
    return {Verdict::kDone, "", ""};
  }
  switch (exit.kind) {
    case FailureKind::kUser:
      return {Verdict::kFailJob, "user_error", InWords(exit)};
    case FailureKind::kOutOfMemory:
      return {Verdict::kFailJob, "out_of_memory",
              absl::StrCat("out of device memory, which more ranks do not cure (each holds the "
                           "whole model): lower training.microbatch_size and raise "
                           "training.accumulation_steps: ",
                           InWords(exit))};
    case FailureKind::kPeer:
      return {Verdict::kIdleCounted, "peer_lost", absl::StrCat("lost its peers: ", InWords(exit))};
    case FailureKind::kWorker:
      return {Verdict::kNotCounted, "worker_unfit", InWords(exit), Fault::kUnfit};
    case FailureKind::kInternal:
      return {Verdict::kCounted, "trainer_failed", InWords(exit), Fault::kDevice};
    case FailureKind::kUnspecified:
      break;
  }
  if (KilledBy(exit.cause, 9) || KilledBy(exit.cause, 15)) {
    return {Verdict::kIdleCounted, "trainer_killed", InWords(exit)};
  }
  return {Verdict::kCounted, "trainer_failed", InWords(exit), Fault::kDevice};
}

absl::Duration RetryPause(int failures) {
  if (failures <= 0) return absl::ZeroDuration();
  return std::min(absl::Seconds(1) * (1 << std::min(failures - 1, 6)), kLongestRetryPause);
}

absl::Duration Backoff(int restarts) {
  if (restarts <= 2) return absl::ZeroDuration();
  return std::min(absl::Seconds(1) * (1 << std::min(restarts - 3, 5)), absl::Seconds(30));
}

}  // namespace mindforge::sched
