#include "common/stream_machine.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/duration.h"
#include "common/error_details.h"

namespace mindforge {

StreamMachine::Act StreamMachine::Write(absl::Duration now) {
  MF_CHECK(!writing_) << "a stream writes one message at a time";
  if (end_.has_value()) return {};
  writing_ = true;
  write_started_ = now;
  return {.write = true};
}

StreamMachine::Act StreamMachine::WriteDone(bool ok) {
  MF_CHECK(writing_) << "only a write that was started comes back";
  writing_ = false;
  Act act;
  if (!ok) Lose(absl::CancelledError("the caller went away"), act);
  act.sent = ok && !end_.has_value();
  return Settle(act);
}

StreamMachine::Act StreamMachine::End(const absl::Status& status) {
  if (!end_.has_value()) end_ = status;
  return Settle({});
}

StreamMachine::Act StreamMachine::CallerGone() {
  Act act;
  Lose(absl::CancelledError("the caller went away"), act);
  return Settle(act);
}

StreamMachine::Act StreamMachine::Look(absl::Duration now, absl::Duration limit) {
  if (!writing_ || aborting_ || gone_ || now - write_started_ < limit) return {};
  Act act{.abort = true};
  aborting_ = true;
  Lose(CallerDoesNotRead(limit), act);
  return act;
}

StreamMachine::Act StreamMachine::AbortReturned() {
  MF_CHECK(aborting_) << "an abort returns once";
  aborting_ = false;
  return Settle({});
}

StreamMachine::Act StreamMachine::Release() {
  MF_CHECK(holds_ > 0) << "each hold is released once";
  --holds_;
  return Settle({});
}

void StreamMachine::Lose(const absl::Status& status, Act& act) {
  if (gone_ || finished_) return;
  gone_ = true;
  act.gone = true;
  if (!end_.has_value()) end_ = status;
}

StreamMachine::Act StreamMachine::Settle(Act act) {
  if (!end_.has_value() || finished_ || writing_ || aborting_ || holds_ > 0) return act;
  finished_ = true;
  act.finish = true;
  return act;
}

absl::Status CallerDoesNotRead(absl::Duration limit) {
  return Error(absl::StatusCode::kAborted, "CALLER_DOES_NOT_READ",
               absl::StrCat("the stream was ended: the caller has read nothing for ",
                            FormatDuration(limit), "; call again to go on"));
}

}  // namespace mindforge
