#include "coordinator/rpc/job_defaults.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace mindforge {
namespace {

constexpr int64_t kMostHidden = int64_t{1} << 40;  // beyond it the sizes derived could overflow
constexpr char kMiniMind3[] = "minimind3";
constexpr char kConversations[] = "conversations";

// How a release trains on one kind of data.
struct Regimen {
  int64_t epochs;
  int64_t max_seq_len;
  int64_t microbatch_size;
  int64_t accumulation_steps;
  double learning_rate;
  int64_t microbatches_per_checkpoint;  // 0: our own default counts steps
};

// What the releases of the reference differ in.
struct Release {
  const char* name;
  int64_t hidden_size;
  int64_t num_key_value_heads;
  double rms_norm_eps;
  bool qk_norm;
  bool wide_mlp;  // inner width by pi, not by 8/3
  bool add_bos_eos;
  const char* schedule;
  Regimen texts;
  Regimen conversations;
};

// The first is what no recipe means.
constexpr Release kReleases[] = {
    {.name = "",
     .hidden_size = 512,
     .num_key_value_heads = 2,
     .rms_norm_eps = 1e-5,
     .qk_norm = false,
     .wide_mlp = false,
     .add_bos_eos = false,
     .schedule = "cosine",
     .texts = {1, 512, 32, 8, 5e-4, 0},
     .conversations = {1, 512, 32, 8, 5e-4, 0}},
    {.name = "minimind2",
     .hidden_size = 512,
     .num_key_value_heads = 2,
     .rms_norm_eps = 1e-5,
     .qk_norm = false,
     .wide_mlp = false,
     .add_bos_eos = false,
     .schedule = "cosine",
     .texts = {1, 512, 32, 8, 5e-4, 100},
     .conversations = {2, 512, 16, 1, 5e-7, 100}},
    {.name = kMiniMind3,
     .hidden_size = 768,
     .num_key_value_heads = 4,
     .rms_norm_eps = 1e-6,
     .qk_norm = true,
     .wide_mlp = true,
     .add_bos_eos = true,
     .schedule = "cosine_from_lr",
     .texts = {2, 340, 32, 8, 5e-4, 1000},
     .conversations = {2, 768, 16, 1, 1e-5, 1000}},
};

const Release& ReleaseOf(const v1::JobSpec& job) {
  for (const Release& release : kReleases) {
    if (job.recipe() == release.name) return release;
  }
  return kReleases[0];
}

int64_t IntermediateSize(const Release& release, int64_t hidden) {
  if (!release.wide_mlp) return (hidden * 8 / 3 + 63) / 64 * 64;
  return 64 * std::llround(std::ceil(std::numbers::pi * static_cast<double>(hidden) / 64));
}

int64_t KeyValueHeads(const Release& release, int64_t heads) {
  if (heads <= 0) return heads;
  if (heads % release.num_key_value_heads == 0) return release.num_key_value_heads;
  return heads % 2 == 0 ? 2 : heads;
}

// Sets an optional field to its default where it is unset.
#define MF_DEFAULT(message, field, value) \
  if (!(message).has_##field()) (message).set_##field(value)

void FillExperts(v1::ModelSpec& model, bool minimind3) {
  MF_DEFAULT(model, use_moe, false);
  MF_DEFAULT(model, num_experts_per_tok, minimind3 ? 1 : 2);
  MF_DEFAULT(model, norm_topk_prob, true);
  if (minimind3) {
    MF_DEFAULT(model, num_experts, 4);
    if (model.has_intermediate_size()) {
      MF_DEFAULT(model, moe_intermediate_size, model.intermediate_size());
    }
    MF_DEFAULT(model, router_aux_loss_coef, 5e-4);
    return;
  }
  MF_DEFAULT(model, n_routed_experts, 4);
  MF_DEFAULT(model, n_shared_experts, 1);
  MF_DEFAULT(model, aux_loss_alpha, 0.1);
  MF_DEFAULT(model, seq_aux, true);
}

void FillModel(const Release& release, v1::ModelSpec& model) {
  MF_DEFAULT(model, hidden_size, release.hidden_size);
  MF_DEFAULT(model, num_hidden_layers, 8);
  MF_DEFAULT(model, num_attention_heads, 8);
  const int64_t heads = model.num_attention_heads();
  MF_DEFAULT(model, num_key_value_heads, KeyValueHeads(release, heads));
  MF_DEFAULT(model, head_dim, heads > 0 ? model.hidden_size() / heads : 0);
  const int64_t hidden = model.hidden_size();
  if (hidden > 0 && hidden < kMostHidden) {
    MF_DEFAULT(model, intermediate_size, IntermediateSize(release, hidden));
  }
  MF_DEFAULT(model, max_position_embeddings, 32768);
  MF_DEFAULT(model, rope_theta, 1e6);
  MF_DEFAULT(model, rms_norm_eps, release.rms_norm_eps);
  MF_DEFAULT(model, dropout, 0);
  MF_DEFAULT(model, flash_attention, true);
  MF_DEFAULT(model, tie_word_embeddings, true);
  MF_DEFAULT(model, qk_norm, release.qk_norm);
}

void FillData(const Release& release, const Regimen& regimen, v1::DataSpec& data) {
  MF_DEFAULT(data, format, "text");
  MF_DEFAULT(data, max_seq_len, regimen.max_seq_len);
  MF_DEFAULT(data, packing, false);
  MF_DEFAULT(data, malformed_lines, "refuse");
  MF_DEFAULT(data, validation_fraction, 0);
  // A conversation's bos and eos are its template's.
  MF_DEFAULT(data, add_bos_eos, release.add_bos_eos && data.format() != kConversations);
  MF_DEFAULT(data, random_system_fraction, 0);
  MF_DEFAULT(data, drop_empty_think_fraction, 0);
}

void FillTraining(const Release& release, const Regimen& regimen, v1::TrainingSpec& training) {
  MF_DEFAULT(training, epochs, regimen.epochs);
  MF_DEFAULT(training, microbatch_size, regimen.microbatch_size);
  MF_DEFAULT(training, accumulation_steps, regimen.accumulation_steps);
  MF_DEFAULT(training, learning_rate, regimen.learning_rate);
  MF_DEFAULT(training, schedule, release.schedule);
  MF_DEFAULT(training, grad_clip, 1.0);
  MF_DEFAULT(training, weight_decay, 0.01);
  MF_DEFAULT(training, dtype, "bfloat16");
  MF_DEFAULT(training, seed, 42);
  MF_DEFAULT(training, max_steps, 0);
  MF_DEFAULT(training, nan_policy, "stop");
}

// The reference counts microbatches, we count steps: rounded up.
int64_t StepsPerCheckpoint(const Regimen& regimen, int64_t accumulation_steps) {
  if (regimen.microbatches_per_checkpoint == 0 || accumulation_steps < 1) return 100;
  const int64_t microbatches = regimen.microbatches_per_checkpoint;
  return microbatches / accumulation_steps + (microbatches % accumulation_steps != 0);
}

}  // namespace

std::vector<std::string> RecipeNames() {
  std::vector<std::string> names;
  for (const Release& release : kReleases) {
    if (*release.name != '\0') names.emplace_back(release.name);
  }
  return names;
}

bool HasMiniMind3Mixture(const v1::JobSpec& job) {
  const v1::ModelSpec& model = job.model();
  return job.recipe() == kMiniMind3 || model.has_num_experts() ||
         model.has_moe_intermediate_size() || model.has_router_aux_loss_coef();
}

void FillDefaults(v1::JobSpec& job) {
  const Release& release = ReleaseOf(job);
  const Regimen& regimen =
      job.data().format() == kConversations ? release.conversations : release.texts;
  const bool minimind3 = HasMiniMind3Mixture(job);
  FillModel(release, *job.mutable_model());
  FillExperts(*job.mutable_model(), minimind3);
  FillData(release, regimen, *job.mutable_data());
  FillTraining(release, regimen, *job.mutable_training());
  v1::WorkersSpec& workers = *job.mutable_workers();
  MF_DEFAULT(workers, min, 1);
  MF_DEFAULT(workers, max, std::max(1, workers.min()));
  MF_DEFAULT(workers, device, "any");
  v1::CheckpointSpec& checkpoint = *job.mutable_checkpoint();
  MF_DEFAULT(checkpoint, every_steps,
             StepsPerCheckpoint(regimen, job.training().accumulation_steps()));
  MF_DEFAULT(checkpoint, keep_last, 3);
  MF_DEFAULT(checkpoint, keep_every, 0);
  MF_DEFAULT(job, log_every_steps, 10);
  MF_DEFAULT(job, max_failures, 3);
  if (job.has_lora()) MF_DEFAULT(*job.mutable_lora(), rank, 8);
}
#undef MF_DEFAULT

}  // namespace mindforge
