// A call that waits for news (a long poll) as a pure machine: what it asked for, what has become of
// it, and who may answer it. It owns all that it decides by, so that nothing of the call's request
// is read after the call may have ended. No gRPC, lock or clock inside.
//
//   reporting -> parked -> over        Reported, then whoever comes first
//   reporting -> over                  Reported with something to tell; refused; the caller gone
#pragma once

#include <cstdint>

namespace mindforge {

// Not thread-safe: whoever drives it holds a lock around each event, and does what it is told
// without that lock. Exactly one event of a call's life returns kAnswer or kRefuse.
class ParkedCall {
 public:
  // What is to be done after an event.
  enum class Act {
    kNothing,
    kPark,    // wait: for Seen, NewerCall, ParkOver
    kAnswer,  // tell the desired state as it is now, and finish
    kRefuse,  // finish with the error that the event came with
  };

  // `known_version`: the desired state that the caller has. `at_once`: it waits for nothing.
  ParkedCall(int64_t known_version, bool at_once)
      : known_version_(known_version), at_once_(at_once) {}

  // What the call reported has been taken in; the caller's desired state is at `version`.
  Act Reported(int64_t version);
  // The desired state is seen to be at `version`.
  Act Seen(int64_t version);
  // The same caller has called again.
  Act NewerCall() { return NoMoreWaiting(); }
  Act ParkOver() { return NoMoreWaiting(); }
  Act Stopping() { return NoMoreWaiting(); }
  Act Refused() { return End(Act::kRefuse); }
  Act CallerGone() { return End(Act::kRefuse); }

  bool over() const { return state_ == State::kOver; }

 private:
  enum class State { kReporting, kParked, kOver };

  Act NoMoreWaiting();
  Act End(Act act);

  const int64_t known_version_;
  bool at_once_;
  State state_ = State::kReporting;
};

}  // namespace mindforge
