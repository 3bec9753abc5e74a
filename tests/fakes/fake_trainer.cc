// A trainer that computes nothing and does as the job's name says; for the agent's tests.
//
//   steps     max_steps progress records, a checkpoint of the last, FINISHED, exit 0
//   wait      TRAINING until told to stop; then a checkpoint, STOPPED, exit 0
//   join      waits for the group's address, says it in a log line, then as wait
//   nodisk    as wait, but two checkpoints could not be written before
//   fail      a user's failure, its line on stderr, exit 1
//   mutefail  the same without the line
//   crash     a line on stderr, exit 7
//   deaf      TRAINING, closes its reports, stays
//   garble    sends a frame that is no report, stays
//
// Every step waits for the file data.path when that is set, so that a test decides when training
// goes on.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/time/clock.h"
#include "common/durable_file.h"
#include "common/frame.h"
#include "mindforge/v1/trainer.pb.h"

namespace mindforge {
namespace {

constexpr int kAgentFd = 3;
constexpr int kStoreFd = 4;

class FakeTrainer {
 public:
  int Run() {
    v1::TrainerOrder order;
    if (!reader_.ReadMessage(&order).ok() || !order.has_start()) return 9;
    start_ = order.start();
    const std::string mode = start_.spec().name();
    if (mode == "fail") std::fputs("data.path: line 3 is no JSON\n", stderr);
    if (mode == "fail" || mode == "mutefail") return Fail("data.path: line 3 is no JSON");
    if (mode == "device") {
      return Fail(start_.device().id() + " pinned to " + start_.device().signature());
    }
    if (mode == "crash") {
      std::fputs("terminate called after throwing an instance of 'test'\n", stderr);
      return 7;
    }
    if (mode == "join") Log("meets at " + Expect(v1::TrainerOrder::kJoin).join().rendezvous());
    if (start_.has_store_socket()) Log(IsOpen(kStoreFd) ? "has socket" : "no socket");
    Status(v1::TRAINER_PHASE_TRAINING, 0);
    if (mode == "deaf") {
      close(kAgentFd);
      pause();
    }
    if (mode == "garble") {
      (void)writer_.Write("\xff\xff\xff");
      pause();
    }
    if (mode == "steps") return Steps();
    if (mode == "nodisk") {
      CheckpointFailed(10);
      CheckpointFailed(20);
    }
    Expect(v1::TrainerOrder::kStop);
    Checkpoint(5, false);
    Status(v1::TRAINER_PHASE_STOPPED, 5);
    return 0;
  }

 private:
  static bool IsOpen(int fd) { return fd >= 0 && ::dup(fd) >= 0; }

  // Orders of other kinds that come before are skipped.
  v1::TrainerOrder Expect(v1::TrainerOrder::OrderCase kind) {
    v1::TrainerOrder order;
    do {
      if (!reader_.ReadMessage(&order).ok()) _exit(3);
    } while (order.order_case() != kind);
    return order;
  }

  void Send(const v1::TrainerReport& report) {
    if (!writer_.WriteMessage(report).ok()) _exit(3);
  }
  void Status(v1::TrainerPhase phase, int64_t step) {
    v1::TrainerReport report;
    report.mutable_status()->set_phase(phase);
    report.mutable_status()->set_step(step);
    Send(report);
  }
  void Log(const std::string& text) {
    v1::TrainerReport report;
    report.mutable_log()->set_level(v1::LOG_LEVEL_INFO);
    report.mutable_log()->set_text(text);
    Send(report);
  }
  void Checkpoint(int64_t step, bool final) {
    v1::TrainerReport report;
    report.mutable_checkpoint()->set_step(step);
    report.mutable_checkpoint()->set_generation(start_.generation());
    report.mutable_checkpoint()->set_path(start_.checkpoint_dir() + "/step-" +
                                          std::to_string(step) + ".g" +
                                          std::to_string(start_.generation()));
    report.mutable_checkpoint()->set_final(final);
    Send(report);
  }

  void CheckpointFailed(int64_t step) {
    v1::TrainerReport report;
    report.mutable_checkpoint_failed()->set_step(step);
    report.mutable_checkpoint_failed()->set_detail("No space left on device");
    Send(report);
  }

  int Fail(const std::string& message) {
    v1::TrainerReport report;
    report.mutable_failure()->set_kind(v1::FAILURE_KIND_USER);
    report.mutable_failure()->set_message(message);
    Send(report);
    return 1;
  }

  int Steps() {
    const int64_t steps = start_.spec().training().max_steps();
    for (int64_t step = 1; step <= steps; ++step) {
      const std::string& gate = start_.spec().data().path();
      while (step > 1 && !gate.empty() && !PathExists(gate)) absl::SleepFor(absl::Milliseconds(2));
      v1::TrainerReport report;
      report.mutable_progress()->set_step(step);
      report.mutable_progress()->set_generation(start_.generation());
      report.mutable_progress()->set_loss(1.0 / static_cast<double>(step));
      report.mutable_progress()->set_tokens(10);
      report.mutable_progress()->set_step_seconds(0.001);
      Send(report);
    }
    Checkpoint(steps, true);
    Status(v1::TRAINER_PHASE_FINISHED, steps);
    return 0;
  }

  FrameReader reader_{kAgentFd};
  FrameWriter writer_{kAgentFd};
  v1::StartTraining start_;
};

}  // namespace
}  // namespace mindforge

int main() { return mindforge::FakeTrainer().Run(); }
