// Whole trainings by real trainer processes, and what they leave behind, for tests that compare
// them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "tests/fakes/trainer_harness.h"
#include "tests/train/training_job.h"

namespace mindforge {

// The tensors of a finished or stopped job's newest checkpoint.
struct Trained {
  std::string model;
  std::string optimizer;
  std::string folder;  // the checkpoint's
  TrainerReports rank0;

  bool SameBits(const Trained& other) const {
    return !model.empty() && model == other.model && optimizer == other.optimizer;
  }
};

inline Trained ResultOf(TrainerGroup& group) {
  Trained result{.rank0 = group.rank(0).reports()};
  if (result.rank0.checkpoints.empty()) {
    ADD_FAILURE() << "no checkpoint was written";
    return result;
  }
  result.folder = result.rank0.checkpoints.back().path();
  result.model = ReadAll(result.folder + "/model.safetensors");
  result.optimizer = ReadAll(result.folder + "/optimizer.safetensors");
  return result;
}

inline void ExpectAllFinished(TrainerGroup& group) {
  EXPECT_THAT(group.WaitAll(), testing::Each(ExitStatus{}));
  for (int rank = 0; rank < group.world_size(); ++rank) {
    const TrainerReports reports = group.rank(rank).reports();
    EXPECT_TRUE(reports.Reached(v1::TRAINER_PHASE_FINISHED))
        << (reports.failure ? reports.failure->message() : "no failure was reported");
  }
}

inline Trained Train(v1::StartTraining start, int world_size, std::string_view checkpoints,
                     const TestFolder& folder) {
  start.set_checkpoint_dir(folder / checkpoints);
  TrainerGroup group(start, world_size);
  ExpectAllFinished(group);
  return ResultOf(group);
}

inline v1::ResumePoint PointOf(const v1::CheckpointWritten& checkpoint) {
  v1::ResumePoint point;
  point.set_step(checkpoint.step());
  point.set_generation(checkpoint.generation());
  point.set_path(checkpoint.path());
  return point;
}

inline bool AtStep(const TrainerReports& reports, int64_t step) {
  return !reports.steps.empty() && reports.steps.back().step() >= step;
}

// Trains with two ranks until at least `step`, stops both, and goes on with `more` ranks to the
// end.
inline Trained TrainWithAPause(v1::StartTraining start, int64_t step, int more,
                               std::string_view checkpoints, const TestFolder& folder) {
  start.set_checkpoint_dir(folder / checkpoints);
  TrainerGroup first(start, 2);
  EXPECT_TRUE(first.rank(0).WaitUntil([=](const TrainerReports& r) { return AtStep(r, step); }));
  first.rank(0).Stop(1);
  first.rank(1).Stop(1);
  EXPECT_THAT(first.WaitAll(), testing::Each(ExitStatus{}));
  const TrainerReports stopped = first.rank(0).reports();
  EXPECT_TRUE(stopped.Reached(v1::TRAINER_PHASE_STOPPED)) << "it ended before it was stopped";
  if (stopped.checkpoints.empty()) return Trained{.rank0 = stopped};
  *start.add_resume_points() = PointOf(stopped.checkpoints.back());
  start.set_generation(start.generation() + 1);
  TrainerGroup second(start, more);
  ExpectAllFinished(second);
  return ResultOf(second);
}

inline bool Logged(const TrainerReports& reports, std::string_view text) {
  for (const v1::LogLine& line : reports.logs) {
    if (line.text().find(text) != std::string::npos) return true;
  }
  return false;
}

}  // namespace mindforge
