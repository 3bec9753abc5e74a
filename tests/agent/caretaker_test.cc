// What the agent does with checkpoint folders, and what it says where it cannot.
#include "worker/agent/caretaker.h"

#include <memory>

#include "common/durable_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/temp_dir.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/storage_marker.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

class CaretakerTest : public testing::Test {
 protected:
  CaretakerTest()
      : identity_(*Identity::Open(dir_.File("data"))),
        supervisor_(options_, {}, *identity_, metrics_, [](Urgency) {}),
        caretaker_(std::make_unique<Caretaker>([this] { Done(); }, supervisor_)) {}
  ~CaretakerTest() override { caretaker_.reset(); }

  void Done() {
    MutexLock lock(mutex_);
    ++done_;
    changed_.SignalAll();
  }
  // Waits until the caretaker has had so many things to tell, and returns them.
  v1::SynchronizeRequest Told(int count) {
    {
      MutexLock lock(mutex_);
      EXPECT_TRUE(changed_.WaitFor(mutex_, absl::Seconds(30), [&] {
        mutex_.AssertHeld();
        return done_ >= count;
      }));
      EXPECT_EQ(done_, count);
    }
    v1::SynchronizeRequest request;
    caretaker_->Fill(&request);
    return request;
  }
  void Ask(const std::string& verify, const std::string& remove) {
    v1::SynchronizeResponse response;
    if (!remove.empty()) response.add_delete_paths(remove);
    if (!verify.empty()) response.add_verify_paths(verify);
    caretaker_->Accept(response);
  }
  std::string Checkpoint(int64_t step) {
    CheckpointContents contents;
    contents.state.job_id = "j";
    contents.state.step = step;
    contents.state.generation = 1;
    return WriteCheckpoint(dir_.File("checkpoints"), contents)->path;
  }

  const TempDir dir_;
  const AgentOptions options_;
  const std::unique_ptr<Identity> identity_;
  MetricsRegistry registry_{"test"};
  AgentMetrics metrics_{registry_};
  Supervisor supervisor_;
  Mutex mutex_;
  CondVar changed_;
  int done_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<Caretaker> caretaker_;
};

TEST_F(CaretakerTest, TellsDamageFromAFolderThatItCannotRead) {
  const std::string path = Checkpoint(1);
  Ask(path, "");
  EXPECT_TRUE(Told(1).verify_results(0).valid());
  caretaker_->Delivered(Told(1));
  Ask(dir_.File("not-mounted/step-1.g1"), "");
  const v1::VerifyResult absent = Told(2).verify_results(0);
  EXPECT_FALSE(absent.valid());
  EXPECT_TRUE(absent.unreadable());
  EXPECT_THAT(absent.detail(), HasSubstr("not-mounted"));
  caretaker_->Delivered(Told(2));
  ASSERT_TRUE(WriteFileDurably(path + "/state.json", "{}").ok());
  Ask(path, "");
  const v1::VerifyResult damaged = Told(3).verify_results(0);
  EXPECT_FALSE(damaged.valid());
  EXPECT_FALSE(damaged.unreadable());
}

TEST_F(CaretakerTest, CallsAQuarantinedFolderDamagedAndNotUnreadable) {
  const std::string path = Checkpoint(1);
  ASSERT_TRUE(QuarantineCheckpoint(path).ok());
  Ask(path, "");
  const v1::VerifyResult result = Told(1).verify_results(0);
  EXPECT_FALSE(result.valid());
  EXPECT_FALSE(result.unreadable()) << result.detail();
  EXPECT_THAT(result.detail(), HasSubstr("it read back wrong before and was set aside"));
}

TEST_F(CaretakerTest, SaysThatAFolderIsGoneOnlyWhereItsStorageIs) {
  const std::string path = Checkpoint(1);
  ASSERT_TRUE(EnsureStorageMarker(dir_.File("checkpoints")).ok());
  Ask("", path);
  EXPECT_EQ(Told(1).deleted_paths(0), path);
  caretaker_->Delivered(Told(1));
  Ask("", path);  // the answer was lost
  EXPECT_EQ(Told(2).deleted_paths(0), path);
  caretaker_->Delivered(Told(2));
  ASSERT_TRUE(MakeDirs(dir_.File("not-mounted")).ok());
  Ask("", dir_.File("not-mounted/step-1.g1"));
  Ask(Checkpoint(2), "");  // done after it
  EXPECT_EQ(Told(3).deleted_paths_size(), 0);
}

TEST_F(CaretakerTest, AFailedDeletionIsNotTriedAgainAtOnce) {
  const std::string path = dir_.File("not-mounted/step-1.g1");
  for (int i = 1; i <= 3; ++i) {
    Ask(Checkpoint(i), path);  // the coordinator repeats itself
    // Only what was read back is told, and nothing makes the agent call for the deletion's sake.
    EXPECT_EQ(Told(i).verify_results_size(), i);
  }
}

}  // namespace
}  // namespace mindforge
