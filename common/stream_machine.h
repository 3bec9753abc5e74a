// The life of one server stream as a pure machine: one write at a time, one finish, nothing after
// it, in whatever order its owner, its caller and the clock come. No gRPC, lock or clock inside.
//
//   open -> writing -> open            Write, WriteDone(true)
//   open -> finished                   End, or the caller is gone
//   writing -> writing (ended)         End, or the caller is gone: the write comes back first
//   writing (ended) -> finished        WriteDone, and the last hold released
//
// A write that waits too long for the caller is given up by aborting the call: it then comes back
// as any write of a caller that is gone does.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace mindforge {

// Not thread-safe: whoever drives it holds a lock around each call, and does what it is told
// without that lock.
class StreamMachine {
 public:
  // What is to be done after an event. `finish` comes once in a life, `gone` at most once.
  struct Act {
    bool write = false;   // start the write
    bool sent = false;    // tell the owner that it may send again
    bool gone = false;    // tell the owner that nothing can be sent any more
    bool abort = false;   // cancel the call, then call AbortReturned
    bool finish = false;  // finish the call with end()

    friend bool operator==(const Act&, const Act&) = default;
  };

  // The owner has a message. Without `write` the stream has ended, and the message is dropped.
  // REQUIRES: no write is under way.
  Act Write(absl::Duration now);
  Act WriteDone(bool ok);

  // The owner wants the stream to end so; the first wish counts. REQUIRES: `status` may be OK.
  Act End(const absl::Status& status);

  // The caller went away.
  Act CallerGone();

  // Gives the caller up if a write has waited for `limit` or longer.
  Act Look(absl::Duration now, absl::Duration limit);
  Act AbortReturned();

  // While somebody holds the stream it does not finish: what the call owns stays.
  void Hold() { ++holds_; }
  Act Release();

  bool writing() const { return writing_; }
  bool ended() const { return end_.has_value(); }
  // How the stream ends. REQUIRES: ended().
  const absl::Status& end() const { return *end_; }

 private:
  // Ends with `status` for a caller that gets nothing any more.
  void Lose(const absl::Status& status, Act& act);
  Act Settle(Act act);

  bool writing_ = false;
  bool aborting_ = false;  // told to abort, which has not returned
  bool gone_ = false;
  bool finished_ = false;
  int holds_ = 0;
  absl::Duration write_started_;
  std::optional<absl::Status> end_;
};

// What a caller is told whose stream was given up, where it can still be told.
absl::Status CallerDoesNotRead(absl::Duration limit);

}  // namespace mindforge
