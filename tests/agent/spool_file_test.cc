// The spool on disk: what survives, what a torn tail costs, what goes.
#include "worker/agent/spool_file.h"

#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/file_size_limit.h"
#include "tests/fakes/temp_dir.h"
#include "worker/agent/spool.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SpoolFileTest : public testing::Test {
 protected:
  // As an agent that starts: what it finds, as "kind:number:bytes".
  std::vector<std::string> Reopen() {
    file_.reset();
    auto opened = SpoolFile::Open(dir_.File("spool"));
    MF_CHECK_OK(opened.status());
    file_ = *std::move(opened);
    std::vector<std::string> found;
    used_ = file_->Replay([&](SpoolKind kind, int64_t number, std::string_view bytes) {
      found.push_back(absl::StrCat(static_cast<int>(kind), ":", number, ":", std::string(bytes)));
    });
    return found;
  }
  std::vector<std::string> Segments() {
    std::vector<std::string> names = *ListDir(dir_.File("spool"));
    std::erase(names, "id");
    return names;
  }
  std::string Read(const std::string& segment) {
    return *ReadFile(dir_.File("spool/" + segment), 1 << 26);
  }

  const TempDir dir_;
  std::unique_ptr<SpoolFile> file_;
  SpoolNumbers used_;
};

TEST_F(SpoolFileTest, GivesBackWhatWasAppendedInOrder) {
  EXPECT_THAT(Reopen(), IsEmpty());
  file_->Append(SpoolKind::kProgress, 1, "one");
  file_->Append(SpoolKind::kLog, 7, "");
  file_->Append(SpoolKind::kProgress, 2, "two");
  const std::string id = file_->id();
  EXPECT_THAT(Reopen(), ElementsAre("1:1:one", "2:7:", "1:2:two"));
  EXPECT_EQ(file_->id(), id);
  EXPECT_GT(used_[SpoolKind::kLog], 7) << "numbers are never used twice";
}

TEST_F(SpoolFileTest, ATornTailIsLeftOutAndCostsNothingElse) {
  Reopen();
  file_->Append(SpoolKind::kProgress, 1, "one");
  file_->Append(SpoolKind::kProgress, 2, "two");
  file_.reset();
  const std::string whole = Read("segment-1");
  for (size_t cut = 1; cut < 20; ++cut) {
    ASSERT_TRUE(
        WriteFileDurably(dir_.File("spool/segment-1"), whole.substr(0, whole.size() - cut)).ok());
    EXPECT_THAT(Reopen(), ElementsAre("1:1:one")) << cut;
  }
  file_->Append(SpoolKind::kProgress, 3, "three");
  EXPECT_THAT(Reopen(), ElementsAre("1:1:one", "1:3:three"));
}

TEST_F(SpoolFileTest, ADamagedRecordIsNotGivenBack) {
  Reopen();
  file_->Append(SpoolKind::kProgress, 1, "one");
  file_.reset();
  std::string bytes = Read("segment-1");
  bytes.back() ^= 1;
  ASSERT_TRUE(WriteFileDurably(dir_.File("spool/segment-1"), bytes).ok());
  EXPECT_THAT(Reopen(), IsEmpty());
}

TEST_F(SpoolFileTest, ForgetsSegmentsInWhichNothingWaitsAndKeepsTheNumbers) {
  Reopen();
  for (int i = 1; i <= 3; ++i) {
    file_->Append(SpoolKind::kLog, i, std::string(200'000, 'x'));
    file_->Append(SpoolKind::kProgress, i, "p");
  }
  SpoolNumbers oldest;
  oldest[SpoolKind::kLog] = 4;
  oldest[SpoolKind::kProgress] = 3;
  file_->Forget(oldest);
  EXPECT_THAT(Segments(), ElementsAre("segment-1")) << "one step's record waits";
  oldest[SpoolKind::kProgress] = 4;
  file_->Forget(oldest);
  EXPECT_THAT(Segments(), ElementsAre("segment-2"));
  EXPECT_THAT(Reopen(), IsEmpty());
  EXPECT_GE(used_[SpoolKind::kProgress], 3);
}

TEST_F(SpoolFileTest, ALostSpoolGetsAnotherName) {
  Reopen();
  file_->Append(SpoolKind::kProgress, 1, "one");
  const std::string before = file_->id();
  file_.reset();
  ASSERT_TRUE(RemoveTree(dir_.File("spool/id")).ok());
  EXPECT_THAT(Reopen(), IsEmpty());
  EXPECT_NE(file_->id(), before);
}

// Days without the coordinator must not fill the disk, whatever else waits.
TEST_F(SpoolFileTest, IsBoundedWhileNothingIsAcknowledged) {
  v1::LogLine line;
  line.set_text(std::string(100'000, 'x'));
  v1::CheckpointWritten written;
  {
    auto file = SpoolFile::Open(dir_.File("spool"));
    Spool spool(file->get(), {.logs = 3});
    for (int i = 1; i <= 300; ++i) {
      if (i % 100 == 1) {
        written.set_path(absl::StrCat("/c/step-", i, ".g1"));
        spool.AddCheckpoint("j", written);
      }
      spool.AddLog("j", line);
    }
    EXPECT_LE(Segments().size(), 2u);
  }
  auto file = SpoolFile::Open(dir_.File("spool"));
  Spool spool(file->get(), {.logs = 3});
  EXPECT_EQ(spool.logs_waiting(), 3u);
  v1::SynchronizeRequest request;
  spool.Fill(&request);
  ASSERT_EQ(request.checkpoints_size(), 3);
  EXPECT_EQ(request.checkpoints(0).checkpoint().path(), "/c/step-1.g1");
  EXPECT_LT(request.checkpoints(0).number(), request.checkpoints(1).number());
}

TEST_F(SpoolFileTest, ASegmentWithoutItsNumbersReplacesNone) {
  constexpr int64_t kNumber = 50'000'000;  // beyond what a restart skips
  Reopen();
  file_->Append(SpoolKind::kLog, kNumber, std::string(300'000, 'x'));
  SpoolNumbers none_waits;
  none_waits.of = {1, kNumber + 1, 1, 1};
  {
    const FileSizeLimit full(0);
    for (int i = 0; i < 2; ++i) file_->Forget(none_waits);
  }
  EXPECT_THAT(Segments(), ElementsAre("segment-1"));
  file_->Append(SpoolKind::kProgress, 1, "one");
  none_waits[SpoolKind::kProgress] = 1;
  file_->Forget(none_waits);
  EXPECT_THAT(Reopen(), ElementsAre("1:1:one"));
  EXPECT_GT(used_[SpoolKind::kLog], kNumber);
}

TEST_F(SpoolFileTest, AnIdThatCannotBeReadCostsNoRecord) {
  Reopen();
  file_->Append(SpoolKind::kProgress, 1, "one");
  file_.reset();
  ASSERT_EQ(::rename(dir_.File("spool/id").c_str(), dir_.File("id").c_str()), 0);
  ASSERT_TRUE(MakeDirs(dir_.File("spool/id")).ok());  // reading it fails with EISDIR
  EXPECT_FALSE(SpoolFile::Open(dir_.File("spool")).ok());
  ASSERT_TRUE(RemoveTree(dir_.File("spool/id")).ok());
  ASSERT_EQ(::rename(dir_.File("id").c_str(), dir_.File("spool/id").c_str()), 0);
  EXPECT_THAT(Reopen(), ElementsAre("1:1:one"));
}

TEST_F(SpoolFileTest, ASpoolGoesOnWhereTheOneBeforeEnded) {
  Reopen();
  v1::ProgressRecord record;
  v1::SynchronizeRequest request;
  {
    auto file = SpoolFile::Open(dir_.File("another"));
    Spool spool(file->get());
    for (int step = 1; step <= 3; ++step) {
      record.set_step(step);
      spool.AddProgress("j", record);
    }
    v1::SynchronizeResponse response;
    response.set_progress_acknowledged(1);
    spool.Acknowledge(response);
  }
  auto file = SpoolFile::Open(dir_.File("another"));
  Spool spool(file->get());
  record.set_step(4);
  spool.AddProgress("j", record);
  spool.Fill(&request);
  ASSERT_EQ(request.progress_size(), 4) << "the acknowledged one is told again, and not taken";
  EXPECT_EQ(request.progress(2).number(), 3);
  EXPECT_EQ(request.progress(2).job_id(), "j");
  EXPECT_GT(request.progress(3).number(), 3);
  v1::SynchronizeResponse response;
  response.set_progress_acknowledged(request.progress(3).number());
  spool.Acknowledge(response);
  EXPECT_TRUE(spool.empty());
}

}  // namespace
}  // namespace mindforge
