// The shell on a fake store and a clock turned by hand: persist, then speak.
#include "coordinator/shell.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/call_budget.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/memory_store.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

// Counts and lets a test wait for the count.
class Counter {
 public:
  void Add() {
    MutexLock lock(mutex_);
    ++count_;
    changed_.SignalAll();
  }
  int count() {
    MutexLock lock(mutex_);
    return count_;
  }
  bool WaitFor(int count) {
    MutexLock lock(mutex_);
    return changed_.WaitFor(mutex_, kPatience, [&] {
      mutex_.AssertHeld();
      return count_ >= count;
    });
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

sched::SubmitJob Submission(const std::string& name) {
  sched::JobWish wish;
  wish.name = name;
  return {JobId(name + "-id"), wish, "spec", {"request-" + name, "digest"}};
}

sched::WorkerReport Report(const std::string& id) {
  static std::atomic<int64_t> calls = 0;
  sched::WorkerReport report;
  report.call_number = ++calls;
  report.worker.id = WorkerId(id);
  report.worker.name = id;
  report.worker.incarnation = "one";
  report.worker.devices = {{"cpu:0", sched::DeviceKind::kCpu, "m", 0, 1, "sig"}};
  return report;
}

class ShellTest : public ::testing::Test {
 protected:
  void Start() {
    Shell::Options options;
    options.on_failure = [this](const absl::Status& status) { failures_.Add(); };
    shell_ = std::make_unique<Shell>(*store_.Load(), store_, clock_, nullptr, options);
  }
  // Submits; `said` counts the reply.
  void Submit(const std::string& name, Counter& said) {
    shell_->Do(Submission(name), [&](const sched::Outcome& outcome, const sched::State&) {
      EXPECT_TRUE(outcome.status.ok()) << outcome.status;
      return [&said] { said.Add(); };
    });
  }
  void DoAndWait(const sched::Event& event) {
    Counter said;
    shell_->Do(event,
               [&](const sched::Outcome&, const sched::State&) { return [&said] { said.Add(); }; });
    ASSERT_TRUE(said.WaitFor(1));
  }
  sched::WorkerState StateOf(const std::string& worker) {
    sched::WorkerState state = sched::WorkerState::kLost;
    shell_->Peek([&](const sched::State& s, const sched::Now&) {
      state = s.workers.at(WorkerId(worker)).state();
    });
    return state;
  }

  MemoryStore store_;
  FakeClock clock_;
  Counter failures_;
  std::unique_ptr<Shell> shell_;
};

TEST_F(ShellTest, SaysNothingBeforeItIsDurable) {
  Start();
  store_.Block(true);
  Counter submitted, viewed;
  Submit("a", submitted);
  // What is seen of it waits as well.
  shell_->View([&](const sched::State& state, const sched::Now&) {
    EXPECT_EQ(state.jobs.size(), 1u);
    return [&] { viewed.Add(); };
  });
  EXPECT_EQ(submitted.count(), 0);
  EXPECT_EQ(viewed.count(), 0);
  store_.Block(false);
  EXPECT_TRUE(submitted.WaitFor(1));
  EXPECT_TRUE(viewed.WaitFor(1));
  EXPECT_EQ(store_.Load()->jobs.size(), 1u);
}

TEST_F(ShellTest, RemovesWhatDeletedJobsLeftALittleAtATime) {
  store_.SetLeftovers(3'500);  // of the run before
  Start();
  EXPECT_TRUE(store_.WaitUntilPurged(kPatience));
  EXPECT_GE(store_.purges(), 4);
  Counter said;
  Submit("a", said);
  ASSERT_TRUE(said.WaitFor(1));
  DoAndWait(sched::CancelJob{"a", {"cancel", "d"}});
  store_.SetLeftovers(1'500);
  DoAndWait(sched::DeleteJob{"a", {"delete", "d"}});
  EXPECT_TRUE(store_.WaitUntilPurged(kPatience));
}

TEST_F(ShellTest, CommitsManyStepsInOneTransaction) {
  Start();
  store_.Block(true);
  Counter said;
  for (int i = 0; i < 100; ++i) Submit(absl::StrCat("job-", i), said);
  const int before = store_.transactions();
  store_.Block(false);
  ASSERT_TRUE(said.WaitFor(100));
  EXPECT_LE(store_.transactions() - before, 3);
}

TEST_F(ShellTest, AFailedCommitIsSaidToNobodyButTheProcess) {
  Start();
  store_.FailWith(absl::ResourceExhaustedError("disk full"));
  Counter said;
  Submit("a", said);
  EXPECT_TRUE(failures_.WaitFor(1));
  Submit("b", said);
  shell_.reset();
  EXPECT_EQ(said.count(), 0);
  EXPECT_EQ(failures_.count(), 1);
}

TEST_F(ShellTest, AnsweringAgainAfterARestartGivesWhatWasPromised) {
  Start();
  Counter said;
  Submit("a", said);
  ASSERT_TRUE(said.WaitFor(1));
  shell_.reset();
  Start();
  bool repeated = false;
  Counter again;
  shell_->Do(Submission("a"), [&](const sched::Outcome& outcome, const sched::State&) {
    repeated = outcome.repeated;
    return [&] { again.Add(); };
  });
  ASSERT_TRUE(again.WaitFor(1));
  EXPECT_TRUE(repeated);
}

TEST_F(ShellTest, AHeartbeatMakesNoTransaction) {
  Start();
  DoAndWait(Report("w1"));
  const int before = store_.transactions();
  for (int i = 0; i < 50; ++i) {
    clock_.Advance(absl::Milliseconds(500));
    DoAndWait(Report("w1"));
  }
  EXPECT_EQ(store_.transactions(), before);
}

TEST_F(ShellTest, LosesAWorkerWhenItsLeaseRanOut) {
  Start();
  DoAndWait(Report("w1"));
  for (int i = 0; i < 99; ++i) {
    clock_.Advance(absl::Milliseconds(100));
    shell_->RunTimer();
  }
  EXPECT_EQ(StateOf("w1"), sched::WorkerState::kReady);
  clock_.Advance(absl::Milliseconds(100));
  shell_->RunTimer();
  EXPECT_EQ(StateOf("w1"), sched::WorkerState::kLost);
}

TEST_F(ShellTest, AStallOfItsOwnLosesNobody) {
  Start();
  DoAndWait(Report("w1"));
  clock_.Advance(absl::Seconds(60));  // as after SIGSTOP
  shell_->RunTimer();
  EXPECT_EQ(StateOf("w1"), sched::WorkerState::kReady);
}

TEST_F(ShellTest, WhatIsDecidedAtAStallIsMeasuredToo) {
  MetricsRegistry registry("test");
  CoordinatorMetrics metrics(registry);
  Shell::Options options;
  options.settings.gather_window = absl::Seconds(10);
  shell_ = std::make_unique<Shell>(*store_.Load(), store_, clock_, &metrics, options);
  DoAndWait(Report("w1"));
  sched::SubmitJob submission = Submission("a");
  submission.wish.max_workers = 2;
  DoAndWait(submission);
  EXPECT_THAT(registry.Text(), Not(HasSubstr("mindforge_job_queue_wait_seconds_count 1")));
  clock_.Advance(absl::Seconds(60));
  shell_->RunTimer();
  EXPECT_THAT(registry.Text(), HasSubstr("mindforge_job_queue_wait_seconds_count 1"));
  shell_.reset();
}

TEST_F(ShellTest, AStallIsToldOnceAsLongAsItLasts) {
  Start();
  DoAndWait(Report("w1"));
  store_.Block(true);
  Counter said;
  Submit("a", said);
  ASSERT_TRUE(store_.WaitUntilBlocked(kPatience));
  testing::internal::CaptureStderr();
  for (int i = 0; i < 10; ++i) {
    clock_.Advance(absl::Seconds(1));
    shell_->RunTimer();
  }
  store_.Block(false);
  EXPECT_TRUE(said.WaitFor(1));
  const std::string log = testing::internal::GetCapturedStderr();
  const size_t first = log.find("all leases begin anew");
  ASSERT_NE(first, std::string::npos) << log;
  EXPECT_EQ(log.find("all leases begin anew", first + 1), std::string::npos) << log;
}

TEST_F(ShellTest, ASlowDiskLosesNobody) {
  Start();
  DoAndWait(Report("w1"));
  store_.Block(true);
  Counter said;
  Submit("a", said);
  ASSERT_TRUE(store_.WaitUntilBlocked(kPatience));
  for (int i = 0; i < 300; ++i) {
    clock_.Advance(absl::Milliseconds(100));
    shell_->RunTimer();
  }
  EXPECT_EQ(StateOf("w1"), sched::WorkerState::kReady);
  store_.Block(false);
  EXPECT_TRUE(said.WaitFor(1));
}

TEST_F(ShellTest, ASlowPurgeLosesNobody) {
  store_.BlockPurges(true);
  Start();
  Counter said;
  shell_->Do(Report("w1"),
             [&](const sched::Outcome&, const sched::State&) { return [&said] { said.Add(); }; });
  ASSERT_TRUE(store_.WaitUntilPurgeBlocked(kPatience));
  for (int i = 0; i < 300; ++i) {
    clock_.Advance(absl::Milliseconds(100));
    shell_->RunTimer();
  }
  EXPECT_EQ(StateOf("w1"), sched::WorkerState::kReady);
  store_.BlockPurges(false);
  EXPECT_TRUE(said.WaitFor(1));
}

TEST_F(ShellTest, AReadThatTakesLongHoldsUpNoCommit) {
  Start();
  Counter reading, may_end, done, said;
  ASSERT_TRUE(shell_->Read([&] {
    reading.Add();
    may_end.WaitFor(1);
    done.Add();
  }));
  ASSERT_TRUE(reading.WaitFor(1));
  Submit("a", said);
  EXPECT_TRUE(said.WaitFor(1));
  EXPECT_EQ(done.count(), 0);
  may_end.Add();
  shell_->Stop();
  EXPECT_EQ(done.count(), 1) << "a stop waits for what was asked";
}

TEST_F(ShellTest, ReadsHaveALimit) {
  Shell::Options options;
  options.max_reads = 1;
  shell_ = std::make_unique<Shell>(*store_.Load(), store_, clock_, nullptr, options);
  Counter reading, may_end;
  ASSERT_TRUE(shell_->Read([&] {
    reading.Add();
    may_end.WaitFor(1);
  }));
  ASSERT_TRUE(reading.WaitFor(1));
  EXPECT_TRUE(shell_->Read([] {}));
  EXPECT_FALSE(shell_->Read([] {}));
  may_end.Add();
  shell_.reset();
}

TEST_F(ShellTest, WakesWatchersAfterDurableChanges) {
  Start();
  Counter said, woken;
  Submit("a", said);
  ASSERT_TRUE(said.WaitFor(1));
  auto watch = shell_->Watch(JobId("a-id"), [&] { woken.Add(); });
  store_.Block(true);
  shell_->Do(sched::CancelJob{"a", {"c", "d"}},
             [](const sched::Outcome&, const sched::State&) { return [] {}; });
  EXPECT_EQ(woken.count(), 0);
  store_.Block(false);
  EXPECT_TRUE(woken.WaitFor(1));
  watch.reset();
  DoAndWait(sched::DeleteJob{"a", {"x", "d"}});
  EXPECT_EQ(woken.count(), 1);
}

TEST_F(ShellTest, WatchersOfJobsHaveALimitThatLeavesWorkersTheirs) {
  EXPECT_LT(Shell::Options().max_job_watches, CallLimits().calls)
      << "the server would refuse first";
  Shell::Options options;
  options.max_job_watches = options.max_other_watches = 1;
  shell_ = std::make_unique<Shell>(*store_.Load(), store_, clock_, nullptr, options);
  auto first = shell_->Watch(JobId("a"), [] {});
  EXPECT_NE(first, nullptr);
  EXPECT_EQ(shell_->Watch(JobId("a"), [] {}), nullptr);
  auto worker = shell_->Watch(WorkerId("a"), [] {});
  EXPECT_NE(worker, nullptr);
  EXPECT_EQ(shell_->Watch(WorkerId("b"), [] {}), nullptr);
  first.reset();
  EXPECT_NE(shell_->Watch(JobId("a"), [] {}), nullptr);
}

TEST_F(ShellTest, ManyThreadsAtOnceLoseNothing) {
  Start();
  shell_->StartTimer(nullptr);
  Counter said;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        Submit(absl::StrCat("job-", t, "-", i), said);
        const std::string worker = absl::StrCat("w", t);
        shell_->Do(Report(worker),
                   [](const sched::Outcome&, const sched::State&) { return [] {}; });
        auto watch = shell_->Watch(WorkerId(worker), [] {});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(said.WaitFor(200));
  shell_.reset();
  EXPECT_EQ(store_.Load()->jobs.size(), 200u);
}

}  // namespace
}  // namespace mindforge
