#include "tests/cli/samples.h"

namespace mindforge::cli {

v1::Job RunningJob(const std::string& name) {
  v1::Job job;
  job.set_id("j" + name);
  job.mutable_spec()->set_name(name);
  job.mutable_spec()->mutable_training()->set_epochs(1);
  job.mutable_spec()->set_log_every_steps(10);
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_reason("2 devices");
  job.set_generation(1);
  job.set_revision(1);
  job.set_last_checkpoint_step(-1);
  for (int rank = 0; rank < 2; ++rank) {
    v1::JobMember& member = *job.add_members();
    member.set_rank(rank);
    member.set_worker("w" + std::to_string(rank));
    member.set_device("cpu:0");
  }
  return job;
}

v1::ProgressRecord StepRecord(int64_t step, int64_t total) {
  v1::ProgressRecord record;
  record.set_step(step);
  record.set_total_steps(total);
  record.set_epoch(static_cast<double>(step) / static_cast<double>(total));
  record.set_world_size(2);
  record.set_loss(7.65 - 0.01 * static_cast<double>(step));
  record.set_learning_rate(5e-4);
  record.set_tokens_per_second(8123);
  record.set_step_seconds(0.5);
  record.add_sequences_by_rank(8);
  record.add_sequences_by_rank(8);
  return record;
}

}  // namespace mindforge::cli
