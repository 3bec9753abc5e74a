// What every store promises, run on SQLite and on the fake that other tests use.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "coordinator/store/sqlite_store.h"
#include "tests/fakes/memory_store.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using sched::Changes;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// One implementation; Reopen is a restart of the process.
class Harness {
 public:
  virtual ~Harness() = default;
  virtual Store& store() = 0;
  virtual void Reopen() = 0;
};

class SqliteHarness : public Harness {
 public:
  SqliteHarness() { Reopen(); }
  Store& store() override { return *store_; }
  void Reopen() override {
    store_.reset();
    auto opened = SqliteStore::Open(folder_.path());
    MF_CHECK_OK(opened.status());
    store_ = *std::move(opened);
  }

 private:
  TempDir folder_;
  std::unique_ptr<SqliteStore> store_;
};

class MemoryHarness : public Harness {
 public:
  Store& store() override { return store_; }
  void Reopen() override {}

 private:
  MemoryStore store_;
};

template <typename T>
std::unique_ptr<Harness> Make() {
  return std::make_unique<T>();
}

class StoreContract : public ::testing::TestWithParam<std::unique_ptr<Harness> (*)()> {
 protected:
  void Apply(const Changes& changes) { MF_CHECK_OK(store().Apply({&changes})); }
  Store& store() { return harness_->store(); }
  sched::Snapshot LoadAgain() {
    harness_->Reopen();
    auto snapshot = store().Load();
    MF_CHECK_OK(snapshot.status());
    return *std::move(snapshot);
  }

  std::unique_ptr<Harness> harness_ = GetParam()();
};

INSTANTIATE_TEST_SUITE_P(Stores, StoreContract,
                         ::testing::Values(&Make<SqliteHarness>, &Make<MemoryHarness>),
                         [](const auto& info) { return info.index == 0 ? "Sqlite" : "Memory"; });

sched::JobRecord FullJob() {
  sched::JobRecord job;
  job.id = JobId("abc");
  job.sequence = 7;
  job.wish = {"tang", 2, 4, 8, sched::DeviceKind::kCuda, -3, "/ck", 5, 100, 9};
  job.spec = std::string("\0\xff spec", 7);
  job.state = sched::JobState::kResizing;
  job.reason = "because";
  job.generation = Generation(3);
  job.members = {{WorkerId("w1"), "cuda:0"}, {WorkerId("w2"), "cuda:1"}};
  job.failures = 1;
  job.submitted_at = absl::FromUnixMicros(1'700'000'000'000'001);
  job.started_at = absl::FromUnixMicros(1'700'000'000'000'002);
  job.revision = 99;
  job.device_signature = "sig";
  job.dataset_digest = "digest";
  job.skipped_lines = 12;
  job.retry_at = absl::FromUnixMicros(1'700'000'000'000'003);
  job.pause_requested = job.scale_asked = true;
  job.stop = sched::StopPurpose::kResize;
  job.stop_sequence = 4;
  job.world_sizes = {{Generation(1), Step(0), 2}, {Generation(3), Step(50), 1}};
  job.numerics = {{Generation(1), Step(0), "cpu/one"}, {Generation(3), Step(50), "sig \"2\""}};
  return job;
}

TEST_P(StoreContract, IsEmptyAtFirst) {
  const sched::Snapshot snapshot = LoadAgain();
  EXPECT_THAT(snapshot.jobs, IsEmpty());
  EXPECT_THAT(snapshot.workers, IsEmpty());
  EXPECT_THAT(snapshot.requests, IsEmpty());
}

TEST_P(StoreContract, GivesAJobBackAsItWas) {
  const sched::JobRecord job = FullJob();
  Changes changes;
  changes.jobs = {job};
  Apply(changes);
  const sched::Snapshot snapshot = LoadAgain();
  ASSERT_EQ(snapshot.jobs.size(), 1u);
  const sched::JobRecord& got = snapshot.jobs[0];
  EXPECT_EQ(got.id, job.id);
  EXPECT_EQ(got.sequence, job.sequence);
  EXPECT_EQ(got.wish, job.wish);
  EXPECT_EQ(got.spec, job.spec);
  EXPECT_EQ(got.state, job.state);
  EXPECT_EQ(got.reason, job.reason);
  EXPECT_EQ(got.generation, job.generation);
  EXPECT_EQ(got.members, job.members);
  EXPECT_EQ(got.failures, 1);
  EXPECT_EQ(got.submitted_at, job.submitted_at);
  EXPECT_EQ(got.started_at, job.started_at);
  EXPECT_EQ(got.finished_at, absl::InfinitePast());
  EXPECT_EQ(got.revision, 99);
  EXPECT_EQ(got.device_signature, "sig");
  EXPECT_EQ(got.numerics, job.numerics);
  EXPECT_EQ(got.dataset_digest, "digest");
  EXPECT_EQ(got.retry_at, job.retry_at);
  EXPECT_EQ(got.skipped_lines, 12);
  EXPECT_TRUE(got.pause_requested);
  EXPECT_TRUE(got.scale_asked);
  EXPECT_EQ(got.stop, job.stop);
  EXPECT_EQ(got.stop_sequence, 4);
  ASSERT_EQ(got.world_sizes.size(), 2u);
  EXPECT_EQ(got.world_sizes[1].from_step, Step(50));
}

TEST_P(StoreContract, GivesTheRestBackAsItWas) {
  Changes changes;
  sched::WorkerRecord worker;
  worker.id = WorkerId("w");
  worker.name = "node \"1\"";
  worker.incarnation = "i";
  worker.spool = "s";
  worker.devices = {{"cuda:0", sched::DeviceKind::kCuda, "H100", 80, 2, "sig"}};
  worker.devices[0].numerics = {{"float32", "cuda/H100", {"cuda/*"}}, {"bfloat16", "b", {}}};
  worker.drained = true;
  worker.acks = {1, 2, 3, 4};
  changes.workers = {worker};
  sched::Checkpoint checkpoint;
  checkpoint.job = JobId("abc");
  checkpoint.step = 10;
  checkpoint.path = "/ck/abc/step-10.g1";
  checkpoint.final = true;
  checkpoint.pinned = true;
  checkpoint.verification = sched::Verification::kPending;
  checkpoint.worker = WorkerId("w");
  checkpoint.validation_loss = 2.5;
  changes.checkpoints = {checkpoint};
  sched::Deployment by_step, by_path;
  by_step.name = "a";
  by_step.job = JobId("abc");
  by_step.step = 0;
  by_path.name = "b";
  by_path.path = "/model";
  by_path.load_options = std::string("\0opaque", 7);
  changes.deployments = {by_step, by_path};
  changes.delete_orders = {{"/old", JobId("abc"), WorkerId("w")}};
  changes.requests = {{"r", "d", JobId("abc"), 5}};
  Apply(changes);
  const sched::Snapshot snapshot = LoadAgain();
  EXPECT_THAT(snapshot.workers, ElementsAre(worker));
  ASSERT_EQ(snapshot.checkpoints.size(), 1u);
  EXPECT_EQ(snapshot.checkpoints[0].path, checkpoint.path);
  EXPECT_EQ(snapshot.checkpoints[0].validation_loss, 2.5);
  EXPECT_TRUE(snapshot.checkpoints[0].final);
  EXPECT_TRUE(snapshot.checkpoints[0].pinned);
  EXPECT_EQ(snapshot.checkpoints[0].verification, sched::Verification::kPending);
  ASSERT_EQ(snapshot.deployments.size(), 2u);
  EXPECT_EQ(snapshot.deployments[0].step, 0);
  EXPECT_EQ(snapshot.deployments[1].step, std::nullopt);
  EXPECT_EQ(snapshot.deployments[0].load_options, "");
  EXPECT_EQ(snapshot.deployments[1].load_options, by_path.load_options);
  ASSERT_EQ(snapshot.delete_orders.size(), 1u);
  EXPECT_EQ(snapshot.delete_orders[0].worker, WorkerId("w"));
  ASSERT_EQ(snapshot.requests.size(), 1u);
  EXPECT_EQ(snapshot.requests[0].job, JobId("abc"));

  Changes gone;
  gone.deleted_workers = {WorkerId("w")};
  gone.deleted_checkpoints = {{JobId("abc"), 10}};
  gone.deleted_deployments = {"a", "b"};
  gone.done_delete_orders = {"/old"};
  gone.forgotten_requests = {"r"};
  Apply(gone);
  const sched::Snapshot after = LoadAgain();
  EXPECT_THAT(after.workers, IsEmpty());
  EXPECT_THAT(after.checkpoints, IsEmpty());
  EXPECT_THAT(after.deployments, IsEmpty());
  EXPECT_THAT(after.delete_orders, IsEmpty());
  EXPECT_THAT(after.requests, IsEmpty());
}

sched::Progress Record(int64_t step, const std::string& bytes) {
  sched::Progress record;
  record.step = step;
  record.loss = static_cast<double>(10 - step);
  record.step_seconds = 0.5;
  record.bytes = bytes;
  return record;
}

TEST_P(StoreContract, KeepsTheFirstRecordOfAStep) {
  Changes changes;
  changes.jobs = {FullJob()};
  changes.progress = {{JobId("abc"), Record(1, "first")}, {JobId("abc"), Record(2, "two")}};
  Apply(changes);
  Changes again;
  again.progress = {{JobId("abc"), Record(1, "again")}, {JobId("other"), Record(9, "x")}};
  Apply(again);
  const auto records = store().ReadProgress(JobId("abc"), 0, 10);
  ASSERT_TRUE(records.ok());
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ((*records)[0].bytes, "first");
  EXPECT_EQ(store().ReadProgress(JobId("abc"), 1, 10)->size(), 1u);
  EXPECT_EQ(store().ReadProgress(JobId("abc"), 0, 1)->size(), 1u);
  const auto history = LoadAgain().histories[JobId("abc")];
  EXPECT_EQ(history.last_progress.step, 2);
  EXPECT_EQ(history.first_loss, 9);
  EXPECT_EQ(history.productive_seconds, 1.0);
}

TEST_P(StoreContract, TotalsCountEachStepOnce) {
  Changes changes;
  changes.jobs = {FullJob()};
  sched::Progress first = Record(1, "1"), second = Record(2, "2"), skipped = Record(3, "3");
  first.tokens = second.tokens = skipped.tokens = 100;
  skipped.skipped = true;
  changes.progress = {{JobId("abc"), first}, {JobId("abc"), second}, {JobId("abc"), skipped}};
  Apply(changes);
  Apply(changes);
  const auto history = LoadAgain().histories[JobId("abc")];
  EXPECT_EQ(history.tokens, 200);
  EXPECT_EQ(history.productive_seconds, 1.5);
}

TEST_P(StoreContract, KnowsWhichStepsOfALiveJobAreMissing) {
  const auto missing = [&] { return LoadAgain().histories[JobId("abc")].missing_steps; };
  Changes changes;
  changes.jobs = {FullJob()};
  changes.progress = {{JobId("abc"), Record(3, "3")}, {JobId("abc"), Record(6, "6")}};
  Apply(changes);
  EXPECT_THAT(missing(), ElementsAre(1, 2, 4, 5));
  Changes late;
  for (const int64_t step : {1, 2, 5}) late.progress.push_back({JobId("abc"), Record(step, "l")});
  Apply(late);
  Apply(late);
  EXPECT_THAT(missing(), ElementsAre(4));
  changes.jobs[0].state = sched::JobState::kFailed;
  Apply(changes);
  EXPECT_THAT(missing(), IsEmpty());
}

TEST_P(StoreContract, KeepsMilestonesInOrder) {
  Changes changes;
  changes.jobs = {FullJob()};
  const sched::Milestone first{1, sched::MilestoneKind::kCheckpoint, absl::FromUnixSeconds(5), 10,
                               "checkpoint"};
  const sched::Milestone second{2, sched::MilestoneKind::kRestart, absl::FromUnixSeconds(6), 12,
                                "restart"};
  changes.milestones = {{JobId("abc"), first}, {JobId("abc"), second}};
  Apply(changes);
  EXPECT_THAT(*store().ReadMilestones(JobId("abc"), 0, 10), ElementsAre(first, second));
  EXPECT_THAT(*store().ReadMilestones(JobId("abc"), 1, 10), ElementsAre(second));
  EXPECT_THAT(*store().ReadMilestones(JobId("abc"), 0, 1), ElementsAre(first));
  EXPECT_EQ(LoadAgain().histories[JobId("abc")].milestone_count, 2);
  Changes gone;
  gone.deleted_jobs = {JobId("abc")};
  Apply(gone);
  EXPECT_THAT(*store().ReadMilestones(JobId("abc"), 0, 10), IsEmpty());
  EXPECT_EQ(LoadAgain().histories[JobId("abc")].milestone_count, 0);
}

TEST_P(StoreContract, LoadsNoEventsOfEndedJobsAndReadsThemWhenAsked) {
  Changes changes;
  changes.jobs = {FullJob()};
  changes.jobs[0].state = sched::JobState::kSucceeded;
  changes.events = {
      {JobId("abc"),
       {1, {absl::FromUnixSeconds(1), sched::JobState::kSucceeded, Generation(2), "done"}}}};
  Apply(changes);
  EXPECT_THAT(LoadAgain().histories[JobId("abc")].events, IsEmpty());
  const auto events = store().ReadEvents(JobId("abc"));
  ASSERT_EQ(events->size(), 1u);
  EXPECT_EQ((*events)[0].reason, "done");
  EXPECT_EQ((*events)[0].generation, Generation(2));
}

TEST_P(StoreContract, FindsTheNewestValidationLossBehindLaterSteps) {
  Changes changes;
  changes.jobs = {FullJob()};
  sched::Progress first = Record(1, "1"), second = Record(2, "2"), third = Record(3, "3");
  first.loss = 0;  // of a step that was skipped
  second.validation_loss = 3.5;
  third.loss_scale = 1024;
  third.skipped_steps = 1;
  changes.progress = {{JobId("abc"), first}, {JobId("abc"), second}, {JobId("abc"), third}};
  Apply(changes);
  const auto history = LoadAgain().histories[JobId("abc")];
  EXPECT_EQ(history.last_progress.step, 3);
  EXPECT_EQ(history.last_progress.validation_loss, 3.5);
  EXPECT_EQ(history.last_progress.loss_scale, 1024);
  EXPECT_EQ(history.last_progress.skipped_steps, 1);
  EXPECT_EQ(history.first_loss, 8);
}

TEST_P(StoreContract, DropsTheOldestLogLines) {
  Changes changes;
  changes.jobs = {FullJob()};
  const int64_t count = sched::kMaxLogLinesPerJob + 10;
  for (int64_t i = 1; i <= count; ++i) {
    changes.logs.push_back({JobId("abc"), {i, {static_cast<int>(i % 2), absl::StrCat("l", i)}}});
  }
  Apply(changes);
  const auto first = store().ReadLogs(JobId("abc"), 0, std::nullopt, 1);
  ASSERT_EQ(first->size(), 1u);
  EXPECT_EQ((*first)[0].number, 11);
  const auto of_rank = store().ReadLogs(JobId("abc"), count - 4, 1, 10);
  ASSERT_EQ(of_rank->size(), 2u);
  EXPECT_EQ((*of_rank)[0].bytes, absl::StrCat("l", count - 3));
  EXPECT_EQ(LoadAgain().histories[JobId("abc")].log_count, count);
}

TEST_P(StoreContract, KeepsTheNewestEvents) {
  Changes changes;
  changes.jobs = {FullJob()};
  for (int64_t i = 1; i <= 60; ++i) {
    changes.events.push_back({JobId("abc"),
                              {i,
                               {absl::FromUnixSeconds(i), sched::JobState::kQueued, Generation(1),
                                absl::StrCat("e", i)}}});
  }
  Apply(changes);
  const auto history = LoadAgain().histories[JobId("abc")];
  ASSERT_EQ(history.events.size(), sched::kMaxEventsPerJob);
  EXPECT_EQ(history.events.front().reason, "e11");
  EXPECT_EQ(history.event_count, 60);
}

TEST_P(StoreContract, AWorkerForgottenAndRegisteredInOneStepIsThere) {
  Changes changes;
  changes.workers.emplace_back().id = WorkerId("w");
  Apply(changes);
  changes.workers[0].incarnation = "two";
  changes.deleted_workers = {WorkerId("w")};
  Apply(changes);
  EXPECT_THAT(LoadAgain().workers, ElementsAre(changes.workers[0]));
}

TEST_P(StoreContract, DeletesAJobWithAllThatIsItsOwn) {
  Changes changes;
  changes.jobs = {FullJob()};
  changes.progress = {{JobId("abc"), Record(1, "x")}};
  changes.logs = {{JobId("abc"), {1, {0, "line"}}}};
  changes.requests = {{"r", "d", JobId("abc"), 5}};
  sched::Checkpoint checkpoint;
  checkpoint.job = JobId("abc");
  changes.checkpoints = {checkpoint};
  Apply(changes);
  Changes gone;
  gone.deleted_jobs = {JobId("abc")};
  Apply(gone);
  EXPECT_THAT(*store().ReadLogs(JobId("abc"), 0, std::nullopt, 10), IsEmpty());
  EXPECT_THAT(*store().ReadProgress(JobId("abc"), 0, 10), IsEmpty());
  const sched::Snapshot snapshot = LoadAgain();
  EXPECT_THAT(snapshot.jobs, IsEmpty());
  EXPECT_THAT(snapshot.checkpoints, IsEmpty());
  EXPECT_EQ(snapshot.requests.size(), 1u) << "the request stays known";
}

TEST_P(StoreContract, AppliesABatchInOrder) {
  Changes first, second;
  first.jobs = {FullJob()};
  second.jobs = {FullJob()};
  second.jobs[0].reason = "later";
  MF_CHECK_OK(store().Apply({&first, &second}));
  EXPECT_EQ(LoadAgain().jobs[0].reason, "later");
}

}  // namespace
}  // namespace mindforge
