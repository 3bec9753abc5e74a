// How long a coordinator takes from its start to its first answer over a full store:
// startup_bench FOLDER [COORDINATOR [ENDED [LIVE [STEPS]]]].
//
// Fills FOLDER when it is empty: ENDED and LIVE jobs with STEPS records, 20 events, 100 log lines
// and 3 checkpoints each. Then starts COORDINATOR five times over it.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/check.h"
#include "common/durable_file.h"
#include "common/subprocess.h"
#include "coordinator/store/sqlite_store.h"

namespace mindforge {
namespace {

sched::Changes OneJob(int number, bool ended, int steps) {
  sched::Changes changes;
  sched::JobRecord job;
  job.id = JobId(absl::StrCat("job", 100'000 + number));
  job.sequence = number + 1;
  job.wish.name = absl::StrCat("name-", number);
  job.wish.checkpoint_dir = "/data/checkpoints";
  job.spec = std::string(600, 's');
  job.state = ended ? sched::JobState::kSucceeded : sched::JobState::kPaused;
  job.pause_requested = !ended;
  job.reason = "all steps are done; the result is the checkpoint of step 100";
  job.generation = Generation(2);
  job.submitted_at = job.started_at = absl::FromUnixSeconds(1'700'000'000);
  job.world_sizes = {{Generation(1), Step(0), 2}, {Generation(2), Step(50), 1}};
  changes.jobs = {job};
  changes.requests = {{absl::StrCat("request-", number), "digest", job.id, number + 1}};
  for (int i = 1; i <= steps; ++i) {
    sched::Progress record;
    record.step = i;
    record.loss = 5;
    record.tokens = 1000;
    record.step_seconds = 0.1;
    record.bytes = std::string(180, 'r');
    changes.progress.push_back({job.id, record});
  }
  for (int i = 1; i <= 20; ++i) {
    changes.events.push_back(
        {job.id, {i, {job.submitted_at, job.state, job.generation, std::string(80, 'e')}}});
  }
  for (int i = 1; i <= 100; ++i) {
    changes.logs.push_back({job.id, {i, {0, std::string(100, 'l')}}});
  }
  for (int i = 1; i <= 3; ++i) {
    sched::Checkpoint checkpoint;
    checkpoint.job = job.id;
    checkpoint.step = 10 * i;
    checkpoint.path = absl::StrCat("/data/checkpoints/", job.id.value(), "/step-", 10 * i, ".g1");
    checkpoint.manifest_digest = "0123456789abcdef";
    changes.checkpoints.push_back(checkpoint);
  }
  return changes;
}

void FillStore(const std::string& folder, int ended, int live, int steps) {
  auto store = SqliteStore::Open(folder);
  MF_CHECK_OK(store.status());
  constexpr int kBatch = 200;
  for (int begin = 0; begin < ended + live; begin += kBatch) {
    std::vector<sched::Changes> batch;
    for (int i = begin; i < std::min(ended + live, begin + kBatch); ++i) {
      batch.push_back(OneJob(i, i < ended, steps));
    }
    std::vector<const sched::Changes*> changes;
    for (const sched::Changes& c : batch) changes.push_back(&c);
    MF_CHECK_OK((*store)->Apply(changes));
  }
}

absl::Duration StartOnce(const std::string& program, const std::string& folder) {
  const absl::Time before = absl::Now();
  auto process = Subprocess::Spawn({.argv = {program, "--listen", "127.0.0.1:0", "--metrics",
                                             "127.0.0.1:0", "--data-dir", folder}});
  MF_CHECK_OK(process.status());
  std::string said;
  char buffer[4096];
  while (said.find("listening on") == std::string::npos) {
    const ssize_t got = read((*process)->output_fd(), buffer, sizeof(buffer));
    MF_CHECK(got > 0) << said;
    said.append(buffer, static_cast<size_t>(got));
  }
  const absl::Duration took = absl::Now() - before;
  (*process)->Kill(SIGKILL);
  return took;
}

int Run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: startup_bench FOLDER [COORDINATOR [ENDED [LIVE [STEPS]]]]\n");
    return 2;
  }
  const std::string folder = argv[1];
  const std::string program = argc > 2 ? argv[2] : "mindforge-coordinator";
  const int ended = argc > 3 ? std::atoi(argv[3]) : 10'000;
  const int live = argc > 4 ? std::atoi(argv[4]) : 200;
  const int steps = argc > 5 ? std::atoi(argv[5]) : 100;
  if (!PathExists(JoinPath(folder, "coordinator.db"))) FillStore(folder, ended, live, steps);
  {
    const absl::Time before = absl::Now();
    auto store = SqliteStore::Open(folder);
    MF_CHECK_OK(store.status());
    auto snapshot = (*store)->Load();
    MF_CHECK_OK(snapshot.status());
    std::printf("load %zu jobs: %s\n", snapshot->jobs.size(),
                absl::FormatDuration(absl::Now() - before).c_str());
  }
  for (int i = 0; i < 5; ++i) {
    std::printf("start: %s\n", absl::FormatDuration(StartOnce(program, folder)).c_str());
  }
  return 0;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) { return mindforge::Run(argc, argv); }
