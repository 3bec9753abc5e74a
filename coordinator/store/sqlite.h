// SQLite as the store uses it: a connection and its prepared statements, with errors in words.
// Internal to this room.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_stmt;

namespace mindforge {

// A prepared statement, bound from 1 and read from column 0. Reset by its next Bind round. Errors
// while binding and stepping are kept and told by Run or status.
class Statement {
 public:
  Statement(sqlite3* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  // Binds all parameters in order.
  template <typename... Values>
  Statement& Bind(const Values&... values) {
    Reset();
    int index = 0;
    (BindOne(++index, values), ...);
    return *this;
  }

  // Runs a statement that gives no rows.
  absl::Status Run();

  // True while there is a row to read; false at the end or on an error.
  bool Next();
  // Why Next ended: OK at the end of the rows.
  const absl::Status& status() const { return status_; }

  int64_t Int(int column) const;
  double Double(int column) const;
  std::optional<double> OptionalDouble(int column) const;
  std::string Text(int column) const;
  bool IsNull(int column) const;

 private:
  void Reset();
  void BindOne(int index, int64_t value);
  void BindOne(int index, int value) { BindOne(index, int64_t{value}); }
  void BindOne(int index, bool value) { BindOne(index, int64_t{value}); }
  void BindOne(int index, double value);
  // None is NULL.
  void BindOne(int index, const std::optional<double>& value);
  // As a blob: what is stored need not be UTF-8.
  void BindOne(int index, const std::string& value);
  void Check(int code);

  sqlite3* const database_;
  sqlite3_stmt* const statement_;
  absl::Status status_;
};

// A connection. Not thread-safe.
class Database {
 public:
  // Opens the file, made when it is not there (unless `read_only`), in WAL mode with every commit
  // synced. DATA_LOSS: it is no database.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, bool read_only);
  ~Database();

  // One or more statements without parameters.
  absl::Status Execute(const std::string& sql);

  // The statement for this text, prepared once. REQUIRES: `sql` is correct.
  Statement& Prepared(std::string_view sql);

  // Rows that the last INSERT, UPDATE or DELETE changed.
  int64_t RowsChanged() const;

  absl::StatusOr<int64_t> UserVersion();

 private:
  explicit Database(sqlite3* database) : database_(database) {}

  sqlite3* const database_;
  std::map<std::string, std::unique_ptr<Statement>, std::less<>> statements_;
};

}  // namespace mindforge
