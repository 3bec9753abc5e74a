// What one rank is asked to train: the job's settings with every default filled in, and its place
// in the generation. Plain values; the program that makes them from an order knows the wire format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/model_config.h"
#include "worker/model/schedule.h"

namespace mindforge {

enum class TrainDtype { kFloat32, kBfloat16, kFloat16 };
// As training.dtype names it: "bfloat16".
constexpr const char* NameOf(TrainDtype dtype) {
  switch (dtype) {
    case TrainDtype::kFloat32:
      return "float32";
    case TrainDtype::kBfloat16:
      return "bfloat16";
    case TrainDtype::kFloat16:
      break;
  }
  return "float16";
}
// What a loss or gradient that is not finite means; types.proto's nan_policy.
enum class NanPolicy { kStop, kSkip, kRollBack };

struct TrainDataOptions {
  std::string path;
  std::string tokenizer;
  int64_t max_seq_len = 512;
  bool packing = false;
  std::string cache_dir;
  std::vector<std::string> more_paths;  // read after `path`
  bool skip_malformed_lines = false;    // false: they are refused
  double validation_fraction = 0;       // of the rows, held out of training
  bool conversations = false;           // a line is a conversation, not a text
  bool add_bos_eos = false;             // of a text
  double random_system_fraction = 0;    // of conversations: see types.proto
  double drop_empty_think_fraction = 0;
};

struct TrainRecipe {
  int64_t epochs = 1;
  int64_t microbatch_size = 32;
  int64_t accumulation_steps = 8;
  double learning_rate = 5e-4;
  Schedule schedule = Schedule::kCosine;
  double grad_clip = 1.0;
  double weight_decay = 0.01;
  TrainDtype dtype = TrainDtype::kBfloat16;
  NanPolicy nan_policy = NanPolicy::kStop;
  uint64_t seed = 42;
  int64_t max_steps = 0;  // 0: the epochs decide
  std::string init_from;  // folder or file of a model, empty: fresh weights
  int64_t lora_rank = 0;  // not 0: the base is frozen, adapters of this rank are trained
};

struct TrainDevice {
  int cuda_index = -1;  // -1: the CPU
  int threads = 1;      // that a CPU rank computes with
  std::string model;    // "NVIDIA H100 80GB HBM3"
  // The numerics that the job is pinned to, by whatever name; empty: any.
  std::string signature;
};

struct TrainOptions {
  std::string job_id;
  int64_t generation = 1;
  int rank = 0;
  int world_size = 1;

  // vocab_size 0: the tokenizer's.
  ModelConfig model;
  TrainDataOptions data;
  TrainRecipe recipe;
  TrainDevice device;

  std::string checkpoint_dir;      // the job's own
  int64_t checkpoint_every = 100;  // steps, 0: only the last
  int64_t log_every_steps = 10;
  std::vector<CheckpointFolder> resume_points;  // newest first
  std::string dataset_digest;                   // must be met; empty: any
  std::vector<WorldSizeChange> world_size_history;
  std::vector<NumericsPeriod> numerics_history;

  int store_fd = -1;  // rank 0's listening socket, which training takes over
  std::string advertise_host = "127.0.0.1";
  // A peer may tokenize for hours before it joins; one that died the coordinator knows of, and then
  // it ends this generation's trainers.
  absl::Duration arrival_timeout = absl::Hours(24);
  absl::Duration join_timeout = absl::Minutes(10);  // once all are there
};

}  // namespace mindforge
