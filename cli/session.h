// What every command needs: the global flags, the streams, the channel, the deadline, and the
// user's Ctrl-C. It does not know any command.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/exit_code.h"
#include "cli/terminal.h"
#include "common/mutex.h"
#include "common/shutdown.h"
#include "google/protobuf/message.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace mindforge::cli {

enum class OutputFormat { kTable, kWide, kJson, kYaml, kName };

inline constexpr char kDefaultServer[] = "127.0.0.1:7070";

// The flags before or after any command.
struct GlobalOptions {
  std::string server = kDefaultServer;
  OutputFormat output = OutputFormat::kTable;
  absl::Duration timeout = absl::InfiniteDuration();  // of the whole command
  std::string tls_ca;
  std::string token_file;
};

// One run of the program. Thread-safe where said; else for the main thread alone.
class Session {
 public:
  Session(std::ostream& out, std::ostream& err, Terminal out_terminal, Terminal err_terminal);

  GlobalOptions options;

  // stdout is data, stderr is talk.
  std::ostream& out() { return out_; }
  std::ostream& err() { return err_; }
  const Terminal& out_terminal() const { return out_terminal_; }
  const Terminal& err_terminal() const { return err_terminal_; }

  // True with -o json or yaml: print messages instead of words.
  bool structured() const {
    return options.output == OutputFormat::kJson || options.output == OutputFormat::kYaml;
  }
  bool wide() const { return options.output == OutputFormat::kWide; }

  // A message as -o json or yaml asks. REQUIRES: structured().
  void PrintMessage(const google::protobuf::Message& message);
  // One line of JSON, for streams of messages.
  void PrintLine(const google::protobuf::Message& message);
  // " --server HOST:PORT" for commands that are shown to the user; "" for the default.
  std::string ServerFlag() const;
  // Talk: "mindforge: …" on stderr.
  void Note(std::string_view text);

  // The channel to --server, made on first use. INVALID_ARGUMENT for a wrong address or an
  // unreadable token or CA file.
  absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect();

  // When --timeout runs out.
  absl::Time deadline() const { return deadline_; }
  void StartClock();
  // True once it has; a little early, since gRPC and the server round a deadline down.
  bool TimeoutRanOut() const;

  // From the first call of it on, Ctrl-C asks the command to end instead of ending the process.
  Shutdown& shutdown();
  bool interrupted() { return shutdown_ != nullptr && shutdown_->requested(); }
  // From now on Ctrl-C ends the process again. REQUIRES: no call is under way.
  void LeaveInterrupts() { shutdown_ = nullptr; }

  // Waits; false when interrupted or past the deadline before `duration` was over.
  bool Pause(absl::Duration duration);

  // As Pause, but shorter where the server comes back meanwhile. A channel connects only while some
  // thread waits for it: a plain pause would leave it to gRPC's poll every 5 s.
  bool PauseUntilConnected(absl::Duration duration);

  // From now on Ctrl-C runs `callback` on another thread instead of ending the command; empty: as
  // before.
  void TakeInterrupts(std::function<void()> callback);
  // Cancels the calls that are under way. Thread-safe.
  void CancelCalls();

  // Calls that Ctrl-C cancels. Thread-safe.
  void AddCall(grpc::ClientContext* context);
  void RemoveCall(grpc::ClientContext* context);

 private:
  std::ostream& out_;
  std::ostream& err_;
  const Terminal out_terminal_;
  const Terminal err_terminal_;
  absl::Time deadline_ = absl::InfiniteFuture();
  std::shared_ptr<grpc::Channel> channel_;
  Mutex mutex_;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Shutdown> shutdown_;  // last: its thread uses the members above
};

// Keeps a call cancellable by Ctrl-C while it is alive.
class ScopedCall {
 public:
  explicit ScopedCall(Session& session) : session_(session) { session_.AddCall(&context_); }
  ~ScopedCall() { session_.RemoveCall(&context_); }
  ScopedCall(const ScopedCall&) = delete;
  ScopedCall& operator=(const ScopedCall&) = delete;

  grpc::ClientContext& context() { return context_; }

 private:
  Session& session_;
  grpc::ClientContext context_;
};

// A command, once its flags are parsed. Its error is printed and decides the exit status.
using Action = std::function<absl::StatusOr<ExitCode>(Session&)>;

}  // namespace mindforge::cli
