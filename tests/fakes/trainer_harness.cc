#include "tests/fakes/trainer_harness.h"

#include <sys/socket.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/net.h"
#include "common/status_macros.h"

namespace mindforge {

bool TrainerReports::Reached(v1::TrainerPhase phase) const {
  return std::any_of(states.begin(), states.end(),
                     [phase](const v1::TrainerStatus& state) { return state.phase() == phase; });
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerProcess::Start(
    const v1::StartTraining& start, int store_fd) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return absl::InternalError("socketpair failed");
  }
  UniqueFd ours(ends[0]), theirs(ends[1]);
  const char* bin = std::getenv("MINDFORGE_BIN");
  if (bin == nullptr) return absl::NotFoundError("MINDFORGE_BIN is not set");
  SubprocessOptions options{.argv = {absl::StrCat(bin, "/mindforge-trainer")},
                            .capture_output = false};
  options.fds.push_back({theirs.get(), 3});
  if (store_fd >= 0) options.fds.push_back({store_fd, 4});
  ASSIGN_OR_RETURN(std::unique_ptr<Subprocess> process, Subprocess::Spawn(options));
  theirs.Reset();
  std::unique_ptr<TrainerProcess> trainer(new TrainerProcess(std::move(process), std::move(ours)));
  v1::TrainerOrder order;
  *order.mutable_start() = start;
  trainer->Send(order);
  return trainer;
}

TrainerProcess::TrainerProcess(std::unique_ptr<Subprocess> process, UniqueFd link)
    : process_(std::move(process)),
      link_(std::move(link)),
      reader_(link_.get()),
      writer_(link_.get()),
      thread_([this] { Read(); }) {}

TrainerProcess::~TrainerProcess() {
  process_->Kill(SIGKILL);
  process_->Wait();
  CloseLink();
  thread_.join();
}

void TrainerProcess::CloseLink() { shutdown(link_.get(), SHUT_RDWR); }

void TrainerProcess::Send(const v1::TrainerOrder& order) {
  // A trainer that has ended takes no orders; what the test waits for will tell.
  writer_.WriteMessage(order, absl::Seconds(10)).IgnoreError();
}

void TrainerProcess::Stop(int64_t sequence) {
  v1::TrainerOrder order;
  order.mutable_stop()->set_mode(v1::STOP_MODE_CHECKPOINT);
  order.mutable_stop()->set_sequence(sequence);
  Send(order);
}

void TrainerProcess::Read() {
  v1::TrainerReport report;
  while (reader_.ReadMessage(&report).ok()) {
    MutexLock lock(mutex_);
    if (report.has_status()) reports_.states.push_back(report.status());
    if (report.has_progress()) reports_.steps.push_back(report.progress());
    if (report.has_checkpoint()) reports_.checkpoints.push_back(report.checkpoint());
    if (report.has_corrupt()) reports_.corrupt.push_back(report.corrupt());
    if (report.has_log()) reports_.logs.push_back(report.log());
    if (report.has_failure()) reports_.failure = report.failure();
    changed_.SignalAll();
  }
  MutexLock lock(mutex_);
  reports_.ended = true;
  changed_.SignalAll();
}

bool TrainerProcess::WaitUntil(const std::function<bool(const TrainerReports&)>& condition,
                               absl::Duration timeout) {
  MutexLock lock(mutex_);
  return changed_.WaitFor(mutex_, timeout, [&] {
    mutex_.AssertHeld();
    return condition(reports_);
  });
}

ExitStatus TrainerProcess::Wait(absl::Duration timeout) {
  const bool ended =
      WaitUntil([](const TrainerReports& reports) { return reports.ended; }, timeout);
  if (!ended) process_->Kill(SIGABRT);
  return process_->Wait();
}

TrainerReports TrainerProcess::reports() {
  MutexLock lock(mutex_);
  return reports_;
}

TrainerGroup::TrainerGroup(const v1::StartTraining& order, int world_size, const Change& change) {
  auto socket = ListenTcp("127.0.0.1", 0);
  MF_CHECK_OK(socket);
  for (int rank = 0; rank < world_size; ++rank) {
    v1::StartTraining start = order;
    start.set_world_size(world_size);
    start.set_advertise_host("127.0.0.1");
    start.set_rank(rank);
    start.set_has_store_socket(rank == 0);
    if (change) change(rank, start);
    auto process = TrainerProcess::Start(start, rank == 0 ? socket->fd.get() : -1);
    MF_CHECK_OK(process);
    ranks_.push_back(*std::move(process));
  }
  v1::TrainerOrder join;
  join.mutable_join()->set_rendezvous(HostPort{"127.0.0.1", socket->port}.ToString());
  for (int rank = 1; rank < world_size; ++rank) ranks_[static_cast<size_t>(rank)]->Send(join);
}

std::vector<ExitStatus> TrainerGroup::WaitAll() {
  std::vector<ExitStatus> exits;
  for (const auto& rank : ranks_) exits.push_back(rank->Wait());
  return exits;
}

}  // namespace mindforge
