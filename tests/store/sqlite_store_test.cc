// What SQLite alone is asked: locks, damage, schemas.
#include "coordinator/store/sqlite_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/durable_file.h"
#include "coordinator/store/migrations.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(SqliteStore, RefusesAFolderThatAnotherHolds) {
  TempDir folder;
  auto first = SqliteStore::Open(folder.path());
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = SqliteStore::Open(folder.path());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(MessageOf(second.status()), AllOf(HasSubstr(folder.path()), HasSubstr("--data-dir")));
  first->reset();
  EXPECT_TRUE(SqliteStore::Open(folder.path()).ok());
}

TEST(SqliteStore, RefusesAFileThatIsNoDatabase) {
  TempDir folder;
  MF_CHECK_OK(WriteFileDurably(folder.File("coordinator.db"), std::string(8192, 'x')));
  const auto store = SqliteStore::Open(folder.path());
  EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(MessageOf(store.status()),
              AllOf(HasSubstr("coordinator.db"), HasSubstr("restore it from a backup")));
}

TEST(SqliteStore, RefusesATruncatedDatabase) {
  TempDir folder;
  { ASSERT_TRUE(SqliteStore::Open(folder.path()).ok()); }
  auto bytes = ReadFile(folder.File("coordinator.db"), 1 << 24);
  ASSERT_TRUE(bytes.ok());
  for (size_t i = 4096; i < bytes->size(); ++i) (*bytes)[i] = 'z';
  MF_CHECK_OK(WriteFileDurably(folder.File("coordinator.db"), *bytes));
  auto store = SqliteStore::Open(folder.path());
  if (store.ok()) {
    EXPECT_EQ((*store)->Load().status().code(), absl::StatusCode::kDataLoss);
  } else {
    EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(SqliteStore, RefusesANewerSchema) {
  TempDir folder;
  { ASSERT_TRUE(SqliteStore::Open(folder.path()).ok()); }
  {
    auto database = Database::Open(folder.File("coordinator.db"), false);
    ASSERT_TRUE(database.ok());
    MF_CHECK_OK((*database)->Execute("PRAGMA user_version=1000"));
  }
  const auto store = SqliteStore::Open(folder.path());
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(store.status()), HasSubstr("newer program (schema 1000"));
}

TEST(SqliteStore, MigratesOnce) {
  TempDir folder;
  auto database = Database::Open(folder.File("a.db"), false);
  ASSERT_TRUE(database.ok());
  MF_CHECK_OK(Migrate(**database));
  EXPECT_EQ(*(*database)->UserVersion(), SchemaVersion());
  MF_CHECK_OK(Migrate(**database));
}

}  // namespace
}  // namespace mindforge
