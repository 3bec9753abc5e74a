#include "common/parked_call.h"

namespace mindforge {

ParkedCall::Act ParkedCall::Reported(int64_t version) {
  if (state_ != State::kReporting) return Act::kNothing;
  if (at_once_ || version != known_version_) return End(Act::kAnswer);
  state_ = State::kParked;
  return Act::kPark;
}

ParkedCall::Act ParkedCall::Seen(int64_t version) {
  if (state_ != State::kParked || version == known_version_) return Act::kNothing;
  return End(Act::kAnswer);
}

// Before the report is taken in there is nothing to answer with: the answer then follows at once.
ParkedCall::Act ParkedCall::NoMoreWaiting() {
  at_once_ = true;
  return state_ == State::kParked ? End(Act::kAnswer) : Act::kNothing;
}

ParkedCall::Act ParkedCall::End(Act act) {
  if (state_ == State::kOver) return Act::kNothing;
  state_ = State::kOver;
  return act;
}

}  // namespace mindforge
