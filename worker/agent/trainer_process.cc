#include "worker/agent/trainer_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "worker/agent/log_lines.h"

namespace mindforge {
namespace {

constexpr int kOrdersFd = 3;
constexpr int kStoreFd = 4;
// A trainer reads its orders on a thread of its own; one that does not for so long is stuck.
constexpr absl::Duration kSendTimeout = absl::Seconds(2);

}  // namespace

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerProcess::Start(
    const std::string& program, const v1::StartTraining& start, int store_socket,
    TrainerEvents events, absl::Duration exit_timeout) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus(errno, "cannot make a socket pair for", program);
  }
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  SubprocessOptions options;
  options.argv = {program};
  options.fds = {{theirs.get(), kOrdersFd}};
  if (store_socket >= 0) options.fds.push_back({store_socket, kStoreFd});
  ASSIGN_OR_RETURN(std::unique_ptr<Subprocess> process, Subprocess::Spawn(options));
  std::unique_ptr<TrainerProcess> trainer(
      new TrainerProcess(std::move(process), std::move(ours), std::move(events), exit_timeout));
  v1::TrainerOrder order;
  *order.mutable_start() = start;
  // A failure here is a trainer that is gone already: its exit tells more.
  (void)trainer->Send(order);
  return trainer;
}

TrainerProcess::TrainerProcess(std::unique_ptr<Subprocess> process, UniqueFd socket,
                               TrainerEvents events, absl::Duration exit_timeout)
    : process_(std::move(process)),
      socket_(std::move(socket)),
      events_(std::move(events)),
      exit_timeout_(exit_timeout),
      writer_(socket_.get()),
      output_thread_([this] { ReadOutput(); }),
      reports_thread_([this] { ReadReports(); }) {}

TrainerProcess::~TrainerProcess() {
  Kill();
  reports_thread_.join();
}

absl::Status TrainerProcess::Send(const v1::TrainerOrder& order) {
  return writer_.WriteMessage(order, kSendTimeout);
}

void TrainerProcess::Kill() { process_->Kill(SIGKILL); }

void TrainerProcess::ReadReports() {
  FrameReader reader(socket_.get());
  std::string why_killed;
  while (true) {
    v1::TrainerReport report;
    const absl::Status status = reader.ReadMessage(&report);
    if (status.ok()) {
      events_.on_report(report);
      continue;
    }
    if (!absl::IsOutOfRange(status)) {
      // What follows cannot be understood; a trainer that is not heard is not worth its device.
      why_killed = absl::StrCat("its reports broke off: ", std::string(status.message()));
      events_.on_line("agent: the trainer is killed, " + why_killed);
      Kill();
    }
    break;
  }
  std::optional<ExitStatus> exit = process_->WaitFor(exit_timeout_);
  if (!exit) {
    why_killed = absl::StrCat("it closed its reports but did not exit within ",
                              absl::FormatDuration(exit_timeout_));
    events_.on_line("agent: the trainer is killed, " + why_killed);
    Kill();
    exit = process_->Wait();
  }
  exited_ = true;
  output_thread_.join();
  events_.on_exit(*exit, why_killed);
}

void TrainerProcess::ReadOutput() {
  LineSplitter lines(events_.on_line);
  char chunk[4096];
  while (true) {
    // Read before poll: what was written before the exit is read after it.
    const bool exited = exited_;
    pollfd entry{process_->output_fd(), POLLIN, 0};
    const int ready = poll(&entry, 1, exited ? 0 : 100);
    if (ready == 0 && exited) break;  // a process that outlived the trainer holds the pipe
    if (ready <= 0) continue;
    const ssize_t got = read(process_->output_fd(), chunk, sizeof(chunk));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    lines.Add({chunk, static_cast<size_t>(got)});
  }
  lines.Finish();
}

}  // namespace mindforge
