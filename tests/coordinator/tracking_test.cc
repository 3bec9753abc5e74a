// Event files from a store: complete, in order and without repeats, whatever happened in between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/durable_file.h"
#include "coordinator/tracking/tracker.h"
#include "mindforge/v1/types.pb.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/memory_store.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FakeJobs : public TrackedJobs {
 public:
  std::optional<TrackedJob> Find(const JobId& id) const override {
    for (const TrackedJob& job : jobs) {
      if (job.id == id) return job;
    }
    return std::nullopt;
  }
  std::vector<TrackedJob> All() const override { return jobs; }
  std::vector<TrackedJob> jobs;
};

class TrackingTest : public ::testing::Test {
 protected:
  TrackingTest() {
    jobs_.jobs = {{id_, "tang", absl::FromUnixSeconds(1'700'000'000), false}};
    Start();
  }
  // As a coordinator that starts.
  void Start() {
    Tracker::Options options;
    options.folder = folder_.path();
    options.max_waiting = 2;
    tracker_ = std::make_unique<Tracker>(store_, jobs_, clock_, options);
    tracker_->CatchUp();
  }
  void Record(int64_t from, int64_t to, const std::string& job = "abc") {
    sched::Changes changes;
    for (int64_t step = from; step <= to; ++step) {
      v1::ProgressRecord record;
      record.set_loss(1.0 / static_cast<double>(step));
      record.mutable_finished_at()->set_seconds(1'700'000'000 + step);
      sched::Progress progress;
      progress.step = step;
      progress.bytes = record.SerializeAsString();
      changes.progress.push_back({JobId(job), progress});
    }
    MF_CHECK_OK(store_.Apply({&changes}));
  }
  void Mark(int64_t number, const std::string& text) {
    sched::Changes changes;
    changes.milestones = {{id_,
                           {number, sched::MilestoneKind::kCheckpoint,
                            absl::FromUnixSeconds(1'700'000'000), number * 10, text}}};
    MF_CHECK_OK(store_.Apply({&changes}));
  }
  void CatchUp() {
    tracker_->Changed({id_});
    tracker_->CatchUp();
  }
  std::string Path(const std::string& folder = "tang", const std::string& job = "abc") {
    return folder_.File(folder + "/events.out.tfevents.1700000000." + job);
  }
  std::string Bytes(const std::string& folder = "tang", const std::string& job = "abc") {
    const auto bytes = ReadFile(Path(folder, job), 1 << 26);
    return bytes.ok() ? *bytes : "";
  }
  // What a store with all of it at once gives: the one true file.
  std::string Fresh() {
    TempDir other;
    Tracker::Options options;
    options.folder = other.path();
    Tracker tracker(store_, jobs_, clock_, options);
    tracker.CatchUp();
    return *ReadFile(other.File("tang/events.out.tfevents.1700000000.abc"), 1 << 26);
  }

  const JobId id_{"abc"};
  TempDir folder_;
  MemoryStore store_;
  FakeJobs jobs_;
  FakeClock clock_;
  std::unique_ptr<Tracker> tracker_;
};

TEST_F(TrackingTest, WritesWhatIsNewAndOnlyThat) {
  Record(1, 3);
  CatchUp();
  const std::string first = Bytes();
  const auto end = ScanEventFile(Path());
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->last_step, 3);
  EXPECT_EQ(end->bytes, static_cast<int64_t>(first.size()));
  CatchUp();
  EXPECT_EQ(Bytes(), first);
  Record(4, 2000);
  Mark(1, "checkpoint of step 10");
  CatchUp();
  EXPECT_EQ(Bytes().substr(0, first.size()), first);
  EXPECT_THAT(Bytes(), HasSubstr("checkpoint of step 10"));
  EXPECT_EQ(ScanEventFile(Path())->last_step, 2000);
  EXPECT_EQ(ScanEventFile(Path())->last_number, 1);
}

TEST_F(TrackingTest, GoesOnAfterARestartWithoutAGapOrARepeat) {
  Record(1, 3);
  Mark(1, "one");
  CatchUp();
  tracker_.reset();
  Record(4, 6);
  Mark(2, "two");
  Start();
  const auto end = ScanEventFile(Path());
  EXPECT_EQ(end->last_step, 6);
  EXPECT_EQ(end->last_number, 2);
  EXPECT_EQ(Bytes().size(), Fresh().size());
}

TEST_F(TrackingTest, ATornTailIsWrittenAnewWhereverItWasCut) {
  Record(1, 4);
  CatchUp();
  const std::string whole = Bytes();
  tracker_.reset();
  for (size_t size = 0; size < whole.size(); size += 7) {
    ASSERT_TRUE(WriteFileDurably(Path(), whole.substr(0, size)).ok());
    Start();
    ASSERT_EQ(Bytes(), whole) << "cut at " << size;
    tracker_.reset();
  }
}

TEST_F(TrackingTest, DamageIsCutOffAndWrittenAnew) {
  Record(1, 4);
  CatchUp();
  const std::string whole = Bytes();
  tracker_.reset();
  std::string damaged = whole;
  damaged[whole.size() - 30] ^= 1;
  ASSERT_TRUE(WriteFileDurably(Path(), damaged).ok());
  Start();
  EXPECT_EQ(Bytes(), whole);
}

TEST_F(TrackingTest, AMissingFileIsWrittenFromTheStore) {
  Record(1, 4);
  CatchUp();
  const std::string whole = Bytes();
  ASSERT_TRUE(RemoveTree(folder_.File("tang")).ok());
  CatchUp();
  EXPECT_EQ(Bytes(), whole);
}

TEST_F(TrackingTest, WaitsForALateStepButNotForEver) {
  Record(1, 2);
  Record(5, 6);
  CatchUp();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 2);
  Record(3, 4);
  CatchUp();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 6);
  Record(9, 9);
  CatchUp();
  clock_.Advance(absl::Seconds(59));
  tracker_->CatchUp();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 6);
  clock_.Advance(absl::Seconds(1));
  tracker_->CatchUp();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 9);
}

TEST_F(TrackingTest, AnEndedJobIsFinishedAndNotLookedIntoAgain) {
  Record(1, 2);
  Record(4, 4);
  Mark(1, "one");
  jobs_.jobs[0].ended = true;
  jobs_.jobs[0].last_step = 4;
  jobs_.jobs[0].last_milestone = 1;
  CatchUp();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 4);
  ASSERT_TRUE(WriteFileDurably(Path(), "not ours any more").ok());
  Start();
  EXPECT_EQ(Bytes(), "not ours any more");
}

TEST_F(TrackingTest, WhatAnEndedJobsAgentBroughtLateIsWrittenAfterARestartToo) {
  Record(1, 2);
  jobs_.jobs[0].ended = true;
  jobs_.jobs[0].last_step = 2;
  CatchUp();
  tracker_.reset();
  // Durable, and then the coordinator died.
  Record(3, 4);
  jobs_.jobs[0].last_step = 4;
  Start();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 4);
  tracker_.reset();
  Mark(1, "checkpoint of step 4");
  jobs_.jobs[0].last_milestone = 1;
  Start();
  EXPECT_THAT(Bytes(), HasSubstr("checkpoint of step 4"));
}

TEST_F(TrackingTest, JobsOfOneNameHaveAFolderEach) {
  Record(1, 2);
  CatchUp();
  jobs_.jobs[0].ended = true;
  jobs_.jobs.push_back({JobId("def"), "tang", absl::FromUnixSeconds(1'700'000'000), false});
  Record(1, 5, "def");
  tracker_->Changed({JobId("def")});
  tracker_->CatchUp();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 2);
  EXPECT_EQ(ScanEventFile(Path("def", "def"))->last_step, 5);
  // Its folder stays its own when the name becomes free.
  jobs_.jobs.erase(jobs_.jobs.begin());
  CatchUp();
  EXPECT_FALSE(PathExists(folder_.File("tang"))) << "a deleted job's folder goes";
  Record(6, 6, "def");
  Start();
  EXPECT_EQ(ScanEventFile(Path("def", "def"))->last_step, 6);
  EXPECT_THAT(*ListDir(folder_.path()), ElementsAre("def"));
}

TEST_F(TrackingTest, LooksAtAllJobsWhenTooManyHaveChanged) {
  for (const char* id : {"j1", "j2", "j3"}) {
    jobs_.jobs.push_back({JobId(id), id, absl::FromUnixSeconds(1'700'000'000), false});
    Record(1, 1, id);
  }
  tracker_->Changed({JobId("j1"), JobId("j2"), JobId("nobody")});
  tracker_->CatchUp();
  for (const char* id : {"j1", "j2", "j3"}) EXPECT_EQ(ScanEventFile(Path(id, id))->last_step, 1);
}

TEST_F(TrackingTest, AFileThatCannotBeWrittenIsTriedAgain) {
  ASSERT_TRUE(WriteFileDurably(folder_.File("abc"), "a file where the folder should be").ok());
  ASSERT_TRUE(WriteFileDurably(folder_.File("tang"), "and another").ok());
  Record(1, 2);
  CatchUp();
  ASSERT_TRUE(RemoveTree(folder_.File("tang")).ok());
  tracker_->CatchUp();
  EXPECT_THAT(Bytes(), IsEmpty());
  clock_.Advance(absl::Seconds(10));
  tracker_->CatchUp();
  EXPECT_EQ(ScanEventFile(Path())->last_step, 2);
}

TEST(EventFile, FramesAreThoseOfTensorBoard) {
  // tf.io's writer gives these bytes for the version event at time 0.
  const std::string frame = EncodeFileVersion(absl::UnixEpoch());
  ASSERT_EQ(frame.size(), 12u + 9u + 2u + 15u + 4u);
  EXPECT_EQ(frame.substr(0, 8), std::string("\x1a\0\0\0\0\0\0\0", 8));
  const uint32_t crc = MaskedCrc32c(frame.substr(0, 8));
  EXPECT_EQ(frame.substr(8, 4), std::string(reinterpret_cast<const char*>(&crc), 4));
  EXPECT_EQ(frame.substr(12, 1), "\x09");                    // wall_time, fixed 64
  EXPECT_EQ(frame.substr(21, 2), std::string("\x10\0", 2));  // step 0
  EXPECT_EQ(frame.substr(23, 15),
            "\x1a\x0d"
            "brain.Event:2");
}

TEST(EventFile, AFileThatIsNotThereIsNotFound) {
  EXPECT_EQ(ScanEventFile("/no/such/file").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace mindforge
