#include "common/call_budget.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/error_details.h"

namespace mindforge {

absl::Status CallBudget::Admit(size_t bytes) {
  MutexLock lock(mutex_);
  if (calls_ >= limits_.calls) {
    return Error(absl::StatusCode::kResourceExhausted, "SERVER_BUSY",
                 absl::StrCat("the server has ", calls_,
                              " calls in hand, which is its limit: end calls that nobody reads, "
                              "or try again in a moment"));
  }
  if (bytes > limits_.bytes - bytes_) {
    return Error(absl::StatusCode::kResourceExhausted, "SERVER_BUSY",
                 absl::StrCat("the server has ", bytes_, " bytes of requests in hand and no room ",
                              "for another ", bytes, " (the limit is ", limits_.bytes,
                              "): send fewer large requests at once, or try again in a moment"));
  }
  ++calls_;
  bytes_ += bytes;
  return absl::OkStatus();
}

void CallBudget::Done(size_t bytes) {
  MutexLock lock(mutex_);
  MF_CHECK(calls_ > 0 && bytes_ >= bytes) << "each admitted call ends once";
  --calls_;
  bytes_ -= bytes;
}

size_t CallBudget::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

size_t CallBudget::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

}  // namespace mindforge
