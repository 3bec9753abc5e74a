// What SQLite alone is asked: locks, damage, schemas.
#include "coordinator/store/sqlite_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/durable_file.h"
#include "coordinator/store/migrations.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
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

TEST(SqliteStore, NumericsOfAnOlderSchemaAreThoseThatTheJobWasPinnedTo) {
  TempDir folder;
  {
    auto database = Database::Open(folder.File("coordinator.db"), false);
    ASSERT_TRUE(database.ok());
    MF_CHECK_OK(Migrate(**database, 5));
    for (const char* job : {"'pinned', CAST('cpu/X \"avx2\"' AS BLOB)", "'fresh', x''"}) {
      const std::vector<std::string> parts = absl::StrSplit(job, ", ");
      MF_CHECK_OK((*database)->Execute(
          absl::StrCat("INSERT INTO jobs SELECT CAST(", parts[0],
                       " AS BLOB), 1, x'', x'', 1, x'', 1, 0, 0, 0, 0,"
                       " 1, ",
                       parts[1],
                       ", x'', 0, 0, 0, 1, 1, 4, 0, 0, x'', 3, 0, 3, CAST('[]' AS BLOB),"
                       " CAST('[]' AS BLOB), 0, 0")));
    }
  }
  auto store = SqliteStore::Open(folder.path());
  ASSERT_TRUE(store.ok()) << store.status();
  const auto snapshot = (*store)->Load();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  ASSERT_EQ(snapshot->jobs.size(), 2u);
  for (const sched::JobRecord& job : snapshot->jobs) {
    if (job.id == JobId("fresh")) {
      EXPECT_TRUE(job.numerics.empty());
    } else {
      ASSERT_EQ(job.numerics.size(), 1u);
      EXPECT_EQ(job.numerics[0].generation, Generation(1));
      EXPECT_EQ(job.numerics[0].name, "cpu/X \"avx2\"");
    }
  }
}

TEST(SqliteStore, TotalsOfAnOlderSchemaAreThoseOfItsRecords) {
  TempDir folder;
  {
    auto database = Database::Open(folder.File("coordinator.db"), false);
    ASSERT_TRUE(database.ok());
    MF_CHECK_OK(Migrate(**database, 3));
    MF_CHECK_OK((*database)->Execute(R"sql(
      INSERT INTO progress (job, step, generation, total_steps, epoch, world_size, loss,
        learning_rate, gradient_norm, tokens, tokens_per_second, step_seconds, record,
        validation_loss) VALUES
        (CAST('j' AS BLOB), 1, 1, 9, 0, 1, 0, 0, 0, 10, 5, 2, x'', NULL),
        (CAST('j' AS BLOB), 2, 1, 9, 0, 1, 8, 0, 0, 20, 6, 3, x'', 7.5),
        (CAST('j' AS BLOB), 3, 1, 9, 0, 1, 7, 0, 0, 30, 7, 4, x'', NULL),
        (CAST('g' AS BLOB), 4, 1, 9, 0, 1, 7, 0, 0, 30, 7, 4, x'', NULL);
      INSERT INTO jobs SELECT CAST('g' AS BLOB), 1, x'', x'', 3, x'', 1, 0, 0, 0, 0, 1, x'', x'',
        0, 0, 0, 1, 1, 4, 0, 0, x'', 3, 0, 3, CAST('[]' AS BLOB), CAST('[]' AS BLOB), 0;
      INSERT INTO logs VALUES (CAST('j' AS BLOB), 6, 0, x''), (CAST('j' AS BLOB), 7, 0, x''),
        (CAST('k' AS BLOB), 4, 0, x'');
      INSERT INTO workers VALUES (CAST('w' AS BLOB), x'', x'', x'', CAST('one' AS BLOB),
        CAST('[]' AS BLOB), 0, 1, 2, 3, 4);
    )sql"));
  }
  auto store = SqliteStore::Open(folder.path());
  ASSERT_TRUE(store.ok()) << store.status();
  auto snapshot = (*store)->Load();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  const auto& history = snapshot->histories[JobId("j")];
  EXPECT_EQ(history.last_progress.step, 3);
  EXPECT_EQ(history.last_progress.loss, 7);
  EXPECT_EQ(history.last_progress.validation_loss, 7.5);
  EXPECT_EQ(history.first_loss, 8);
  EXPECT_EQ(history.tokens, 60);
  EXPECT_EQ(history.productive_seconds, 9);
  EXPECT_EQ(history.log_count, 7);
  EXPECT_EQ(snapshot->histories[JobId("k")].log_count, 4);
  EXPECT_THAT(snapshot->histories[JobId("g")].missing_steps, ElementsAre(1, 2, 3));
  ASSERT_EQ(snapshot->workers.size(), 1u);
  EXPECT_EQ(snapshot->workers[0].spool, "one") << "its numbers were the incarnation's";
}

TEST(SqliteStore, DeletesALongHistoryInPiecesOfBoundedSize) {
  TempDir folder;
  const auto rows = [&](const char* table) {
    auto database = Database::Open(folder.File("coordinator.db"), /*read_only=*/true);
    MF_CHECK_OK(database.status());
    Statement& count = (*database)->Prepared(absl::StrCat("SELECT count(*) FROM ", table));
    count.Bind();
    MF_CHECK(count.Next());
    return count.Int(0);
  };
  auto store = SqliteStore::Open(folder.path());
  ASSERT_TRUE(store.ok()) << store.status();
  sched::Changes changes;
  sched::JobRecord job;
  job.id = JobId("j");
  sched::JobRecord stays;
  stays.id = JobId("stays");
  stays.exit_step = 70;
  changes.jobs = {job, stays};
  for (int step = 1; step <= 250; ++step) {
    sched::Progress record;
    record.step = step;
    changes.progress.push_back({job.id, record});
    if (step <= 5) changes.progress.push_back({stays.id, record});
  }
  MF_CHECK_OK((*store)->Apply({&changes}));
  sched::Changes gone;
  gone.deleted_jobs = {job.id};
  MF_CHECK_OK((*store)->Apply({&gone}));
  EXPECT_EQ(rows("jobs"), 1);
  EXPECT_EQ(rows("progress"), 255) << "not in the transaction of the deletion";
  EXPECT_TRUE((*store)->ReadProgress(job.id, 0, 10)->empty()) << "but out of sight";
  ASSERT_TRUE(*(*store)->Purge(100));
  EXPECT_EQ(rows("progress"), 155);
  store = absl::UnknownError("the process died");
  store = SqliteStore::Open(folder.path());
  ASSERT_TRUE(store.ok()) << store.status();
  const auto snapshot = (*store)->Load();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(snapshot->histories.count(job.id), 0u);
  ASSERT_EQ(snapshot->jobs.size(), 1u);
  EXPECT_EQ(snapshot->jobs[0].exit_step, 70);
  while (*(*store)->Purge(100)) {
  }
  EXPECT_EQ(rows("progress"), 5);
  EXPECT_EQ((*store)->ReadProgress(stays.id, 0, 10)->size(), 5u);
  EXPECT_EQ(rows("purged_jobs"), 0);
}

}  // namespace
}  // namespace mindforge
