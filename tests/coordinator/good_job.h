// The smallest job file that is accepted.
#pragma once

#include <string>

#include "mindforge/v1/types.pb.h"

namespace mindforge {

inline v1::JobSpec GoodJob(const std::string& name) {
  v1::JobSpec job;
  job.set_name(name);
  job.mutable_data()->set_path("/data/text.jsonl");
  job.mutable_data()->set_tokenizer("/data/tokenizer");
  job.mutable_checkpoint()->set_dir("/data/checkpoints");
  return job;
}

}  // namespace mindforge
