#include "worker/agent/trainer_exit.h"

#include <signal.h>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace mindforge {
namespace {

constexpr size_t kMaxQuotedBytes = 500;

}  // namespace

v1::TrainerExit DescribeExit(const EndedTrainer& ended) {
  v1::TrainerExit exit;
  exit.set_clean(ended.exit.ok() && (ended.phase == v1::TRAINER_PHASE_FINISHED ||
                                     ended.phase == v1::TRAINER_PHASE_STOPPED));
  std::string cause = ended.exit.ToString();
  if (!ended.why_killed.empty()) {
    absl::StrAppend(&cause, ", by its agent: ", ended.why_killed);
  } else if (ended.killed_by_agent) {
    absl::StrAppend(&cause, ", by its agent");
  } else if (ended.exit.signal == SIGKILL) {
    absl::StrAppend(&cause, ", by the kernel for want of memory or by a person");
  } else if (ended.exit.ok() && !exit.clean()) {
    absl::StrAppend(&cause, " before it was done");
  }
  if (ended.failure) {
    *exit.mutable_failure() = *ended.failure;
  } else if (!ended.why_killed.empty() && !ended.killed_by_agent) {
    // Its own fault, which counts: not the signal that ended it.
    exit.mutable_failure()->set_kind(v1::FAILURE_KIND_INTERNAL);
    exit.mutable_failure()->set_message(
        absl::StrCat("it was killed by its agent: ", ended.why_killed));
  } else if (!exit.clean() && !ended.last_line.empty() && !ended.killed_by_agent) {
    absl::StrAppend(&cause, "; the last it said: ", Truncate(ended.last_line, kMaxQuotedBytes));
  }
  exit.set_cause(cause);
  return exit;
}

v1::TrainerExit ExitOfUnstarted(const absl::Status& status) {
  v1::TrainerExit exit;
  exit.set_cause(absl::StrCat("could not be started: ", status.message()));
  exit.mutable_failure()->set_kind(v1::FAILURE_KIND_INTERNAL);
  exit.mutable_failure()->set_message(exit.cause());
  return exit;
}

}  // namespace mindforge
