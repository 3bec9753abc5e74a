#include "coordinator/store/sqlite.h"

#include <sqlite3.h>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr int kBusyTimeoutMillis = 5000;

absl::Status SqliteStatus(sqlite3* database, int code) {
  const std::string message = absl::StrCat(
      "SQLite: ", database == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(database));
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return absl::PermissionDeniedError(message);
    default:
      return absl::UnknownError(message);
  }
}

}  // namespace

Statement::~Statement() { sqlite3_finalize(statement_); }

void Statement::Check(int code) {
  if (code != SQLITE_OK && status_.ok()) status_ = SqliteStatus(database_, code);
}

void Statement::Reset() {
  sqlite3_reset(statement_);  // tells the last run's error again, which was told already
  status_ = absl::OkStatus();
}

void Statement::BindOne(int index, int64_t value) {
  Check(sqlite3_bind_int64(statement_, index, value));
}
void Statement::BindOne(int index, double value) {
  Check(sqlite3_bind_double(statement_, index, value));
}
void Statement::BindOne(int index, const std::optional<double>& value) {
  Check(value ? sqlite3_bind_double(statement_, index, *value)
              : sqlite3_bind_null(statement_, index));
}
void Statement::BindOne(int index, const std::string& value) {
  Check(sqlite3_bind_blob64(statement_, index, value.data(), value.size(), SQLITE_TRANSIENT));
  // An empty blob with a null pointer would be NULL.
  if (value.empty()) Check(sqlite3_bind_zeroblob(statement_, index, 0));
}

bool Statement::Next() {
  if (!status_.ok()) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) status_ = SqliteStatus(database_, code);
  sqlite3_reset(statement_);  // ends the read transaction
  return false;
}

absl::Status Statement::Run() {
  while (Next()) {
  }
  return status_;
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_, column); }
double Statement::Double(int column) const { return sqlite3_column_double(statement_, column); }
std::optional<double> Statement::OptionalDouble(int column) const {
  return IsNull(column) ? std::nullopt : std::optional<double>(Double(column));
}
std::string Statement::Text(int column) const {
  const void* const bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return bytes == nullptr ? "" : std::string(static_cast<const char*>(bytes), size);
}
bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, bool read_only) {
  sqlite3* raw = nullptr;
  const int flags = read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  const int code = sqlite3_open_v2(path.c_str(), &raw, flags | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Database> database(new Database(raw));
  if (code != SQLITE_OK) return SqliteStatus(raw, code);
  sqlite3_extended_result_codes(raw, 1);
  sqlite3_busy_timeout(raw, kBusyTimeoutMillis);
  // 2 MiB of page cache: the coordinator stays small, and it reads little.
  RETURN_IF_ERROR(database->Execute("PRAGMA cache_size=-2048"));
  if (!read_only) {
    RETURN_IF_ERROR(database->Execute("PRAGMA journal_mode=WAL"));
    RETURN_IF_ERROR(database->Execute("PRAGMA synchronous=FULL"));
  }
  return database;
}

Database::~Database() {
  statements_.clear();
  sqlite3_close(database_);
}

absl::Status Database::Execute(const std::string& sql) {
  const int code = sqlite3_exec(database_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : SqliteStatus(database_, code);
}

Statement& Database::Prepared(std::string_view sql) {
  const auto it = statements_.find(sql);
  if (it != statements_.end()) return *it->second;
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(database_, sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  MF_CHECK(code == SQLITE_OK) << sqlite3_errmsg(database_) << " in: " << sql;
  return *statements_.emplace(sql, std::make_unique<Statement>(database_, statement)).first->second;
}

int64_t Database::RowsChanged() const { return sqlite3_changes64(database_); }

absl::StatusOr<int64_t> Database::UserVersion() {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(database_, "PRAGMA user_version", -1, &statement, nullptr);
  if (code != SQLITE_OK) return SqliteStatus(database_, code);
  Statement version(database_, statement);
  if (!version.Next()) return version.status();
  return version.Int(0);
}

}  // namespace mindforge
