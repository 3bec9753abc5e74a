#include "coordinator/store/purge.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

struct Part {
  const char* table;
  const char* key;  // beside the job
};

constexpr Part kParts[] = {{"progress", "step"},
                           {"logs", "number"},
                           {"milestones", "number"},
                           {"job_events", "number"},
                           {"checkpoints", "step"}};

// How many rows it removed.
absl::StatusOr<int64_t> Remove(Database& database, const Part& part, const std::string& job,
                               int64_t rows) {
  RETURN_IF_ERROR(
      database
          .Prepared(absl::StrCat("DELETE FROM ", part.table, " WHERE job = ?1 AND ", part.key,
                                 " IN (SELECT ", part.key, " FROM ", part.table,
                                 " WHERE job = ?1 ORDER BY ", part.key, " LIMIT ?2)"))
          .Bind(job, rows)
          .Run());
  return database.RowsChanged();
}

}  // namespace

absl::Status MarkForPurge(Database& database, const JobId& job) {
  for (const char* const sql :
       {"DELETE FROM jobs WHERE id = ?", "DELETE FROM job_totals WHERE job = ?",
        "DELETE FROM delete_orders WHERE job = ?",
        "INSERT OR IGNORE INTO purged_jobs VALUES (?)"}) {
    RETURN_IF_ERROR(database.Prepared(sql).Bind(job.value()).Run());
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> PurgeRows(Database& database, int rows) {
  Statement& marked = database.Prepared("SELECT job FROM purged_jobs LIMIT 1");
  marked.Bind();
  if (!marked.Next()) {
    RETURN_IF_ERROR(marked.status());
    return false;
  }
  const std::string job = marked.Text(0);
  marked.Bind();  // gives the table free for the DELETE
  int64_t left = rows;
  for (const Part& part : kParts) {
    ASSIGN_OR_RETURN(const int64_t removed, Remove(database, part, job, left));
    left -= removed;
    if (left <= 0) return true;
  }
  RETURN_IF_ERROR(database.Prepared("DELETE FROM purged_jobs WHERE job = ?").Bind(job).Run());
  return true;  // there may be another job
}

}  // namespace mindforge
