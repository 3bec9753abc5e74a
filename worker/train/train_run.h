// One rank's training of one generation, from opening the data to the last checkpoint. It does not
// know gRPC, the agent or the wire: orders come through TrainControl, progress leaves through
// ProgressSink. Every result is a pure function of dataset, settings and device kind; rank and
// world size decide only who computes what.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "worker/train/progress_sink.h"
#include "worker/train/train_options.h"

namespace mindforge {

enum class TrainOutcome {
  kFinished,  // the last step's checkpoint is durable
  kStopped,   // as ordered, with a checkpoint of the step it stopped after
};

// One run. For one thread. Borrows clock, control and sink, which must outlive it. After a failure
// its destructor may wait for peers or a device that no longer answer: report, then end the
// process.
class TrainRun {
 public:
  TrainRun(TrainOptions options, const Clock& clock, TrainControl& control, ProgressSink& sink);
  ~TrainRun();
  TrainRun(const TrainRun&) = delete;
  TrainRun& operator=(const TrainRun&) = delete;

  // Trains. Once. ClassifyFailure (failure.h) tells whose fault an error is.
  absl::StatusOr<TrainOutcome> Run();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mindforge
