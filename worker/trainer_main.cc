// mindforge-trainer: one data-parallel rank, child of an agent. It takes no flags: its orders come
// over the socketpair on descriptor 3 (mindforge/v1/trainer.proto).
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/log_writer.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "worker/train/train_run.h"
#include "worker/trainer_link.h"
#include "worker/trainer_orders.h"

namespace mindforge {
namespace {

constexpr absl::Duration kStartTimeout = absl::Minutes(1);

// Ends the process without destructors: after a failure those of the group may wait for peers that
// no longer answer.
[[noreturn]] void Exit(int status) {
  std::fflush(nullptr);
  FlushLog();
  _exit(status);
}

[[noreturn]] void Fail(AgentLink& link, const absl::Status& status) {
  MF_LOG(ERROR) << status.message();
  link.SendFailure(FailureReport(status));
  Exit(1);
}

[[noreturn]] void Train() {
  const RealClock clock;
  AgentLink link(kAgentFd, clock);
  const absl::StatusOr<v1::StartTraining> order = link.ReadStart(kStartTimeout);
  if (!order.ok()) {
    MF_LOG(ERROR) << order.status().message();
    Exit(kExitAgentGone);
  }
  link.StartReading();
  absl::StatusOr<TrainOptions> options = TrainOptionsFromOrder(*order);
  if (!options.ok()) Fail(link, options.status());
  TrainRun run(*std::move(options), clock, link, link);
  const absl::StatusOr<TrainOutcome> outcome = run.Run();
  if (!outcome.ok()) Fail(link, outcome.status());
  Exit(0);
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    std::puts(mindforge::VersionLine("mindforge-trainer").c_str());
    return 0;
  }
  mindforge::InitLogging("mindforge-trainer");
  if (argc > 1 || fcntl(mindforge::kAgentFd, F_GETFD) < 0) {
    std::fputs("mindforge-trainer is started by mindforge-worker; run that instead\n", stderr);
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // the agent sets it too; the link's end covers what is between
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGINT, SIG_IGN);  // Ctrl-C in a terminal is for the agent, which then stops us
  mindforge::Train();
}
