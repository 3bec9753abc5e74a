// Reading a server stream as every command does: cancelled by Ctrl-C, and opened again when the
// server went away meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "cli/rpc.h"
#include "cli/session.h"
#include "grpcpp/support/sync_stream.h"

namespace mindforge::cli {

// A stream that lives longer is opened again: every call has a deadline.
inline constexpr absl::Duration kStreamTimeout = absl::Hours(1);

struct StreamCall {
  std::string what;  // "watch job 'x'"
  // Open again, with growing pauses, when the server went away after it had answered once.
  bool reconnect = false;
  // `open` asks for what has not been seen yet: open again when the server ended the stream because
  // nothing was read for a while (a pager waits on a page).
  bool resumes = false;
  // The stream is over only when the item handler says so; an end before that is a loss.
  bool until_told = false;
  bool connected = false;                       // the server is known to be there
  std::function<void(const std::string&)> say;  // told of a loss once, and when it is over
};

// What to do after a stream ended without being told to.
enum class AfterStream { kDone, kFail, kReopen };

// Decides, tells of a loss, and pauses before kReopen. `status` becomes what kFail returns.
AfterStream AfterLostStream(Session& session, StreamCall& call, const grpc::Status& raw, bool& lost,
                            int& attempt, absl::Status& status);

// Opens, hands each item to `on_item` until that returns false, and reopens as `call` says; `open`
// is expected to ask for what has not been seen yet. OK: the stream ended, or on_item said so.
template <typename Response>
absl::Status ReadStream(
    Session& session, StreamCall call,
    const std::function<std::unique_ptr<grpc::ClientReader<Response>>(grpc::ClientContext*)>& open,
    const std::function<bool(const Response&)>& on_item) {
  bool lost = false;
  int attempt = 0;
  while (true) {
    ScopedCall scoped(session);
    scoped.context().set_deadline(absl::ToChronoTime(CallDeadline(session, kStreamTimeout)));
    const auto reader = open(&scoped.context());
    Response response;
    while (reader->Read(&response)) {
      if (lost) call.say("connected again");
      call.connected = true;
      lost = false;
      attempt = 0;
      if (on_item(response)) continue;
      scoped.context().TryCancel();
      reader->Finish();  // its status is that of our own cancellation
      return absl::OkStatus();
    }
    absl::Status status;
    switch (AfterLostStream(session, call, reader->Finish(), lost, attempt, status)) {
      case AfterStream::kDone:
        return absl::OkStatus();
      case AfterStream::kFail:
        return status;
      case AfterStream::kReopen:
        break;
    }
  }
}

}  // namespace mindforge::cli
