// Bad job files, each with the field and the remedy that its refusal names.
#include "coordinator/rpc/validate_job.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/coordinator/good_job.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ValidateJob, FillsInEveryDefault) {
  const ValidatedJob job = ValidateJob(GoodJob("tang"));
  EXPECT_THAT(job.violations, IsEmpty());
  EXPECT_THAT(job.warnings, IsEmpty());
  EXPECT_EQ(job.spec.model().hidden_size(), 512);
  EXPECT_EQ(job.spec.model().num_key_value_heads(), 2);
  EXPECT_EQ(job.spec.model().head_dim(), 64);
  EXPECT_EQ(job.spec.model().intermediate_size(), 1408);
  EXPECT_FALSE(job.spec.model().has_vocab_size()) << "the tokenizer decides";
  EXPECT_EQ(job.spec.data().max_seq_len(), 512);
  EXPECT_EQ(job.spec.training().learning_rate(), 5e-4);
  EXPECT_EQ(job.spec.training().dtype(), "bfloat16");
  EXPECT_EQ(job.spec.training().seed(), 42u);
  EXPECT_EQ(job.spec.workers().max(), 1);
  EXPECT_EQ(job.spec.workers().device(), "any");
  EXPECT_EQ(job.spec.checkpoint().every_steps(), 100);
  EXPECT_EQ(job.spec.log_every_steps(), 10);
  EXPECT_EQ(job.spec.max_failures(), 3);
}

TEST(ValidateJob, LeavesWhatIsGiven) {
  v1::JobSpec spec = GoodJob("tang");
  spec.mutable_training()->set_grad_clip(0);
  spec.mutable_training()->set_weight_decay(0);
  spec.mutable_checkpoint()->set_every_steps(0);
  const ValidatedJob job = ValidateJob(spec);
  EXPECT_THAT(job.violations, IsEmpty());
  EXPECT_EQ(job.spec.training().grad_clip(), 0);
  EXPECT_EQ(job.spec.training().weight_decay(), 0);
  ASSERT_EQ(job.warnings.size(), 1u);
  EXPECT_THAT(job.warnings[0], HasSubstr("checkpoint.every_steps is 0"));
}

struct BadJob {
  const char* change;  // merged into a good job, as proto text
  const char* field;
  const char* says;
};

const BadJob kBadJobs[] = {
    {"name: ''", "name", "is missing"},
    {"name: 'Upper'", "name", "may hold only a-z"},
    {"name: 'a_b'", "name", "may hold only a-z"},
    {"name: '-a'", "name", "must not begin or end with -"},
    {"data {path: ''}", "data.path", "is missing: give a .jsonl, .jsonl.gz or .jsonl.zst file"},
    {"data {path: 'data.jsonl'}", "data.path", "must be an absolute path"},
    {"data {tokenizer: ''}", "data.tokenizer", "is missing"},
    {"data {max_seq_len: 1}", "data.max_seq_len", "must be from 2"},
    {"data {max_seq_len: 40000}", "data.max_seq_len", "at most max_position_embeddings (32768)"},
    {"data {cache_dir: 'x'}", "data.cache_dir", "must be an absolute path"},
    {"model {hidden_size: 0}", "model.hidden_size", "must be from 1"},
    {"model {hidden_size: 9223372036854775807}", "model.hidden_size", "must be from 1"},
    {"model {num_attention_heads: 5}", "model.num_attention_heads", "must divide hidden_size"},
    {"model {num_attention_heads: -8}", "model.num_attention_heads", "must be from 1"},
    {"model {num_key_value_heads: 3}", "model.num_key_value_heads",
     "must divide num_attention_heads"},
    {"model {num_key_value_heads: 16}", "model.num_key_value_heads", "must be from 1 to 8"},
    {"model {head_dim: 7}", "model.head_dim", "must be even"},
    {"model {head_dim: 5000}", "model.head_dim", "must be from 1 to 4096"},
    {"model {hidden_size: 24}", "model.head_dim", "must be even"},
    {"model {num_hidden_layers: -1}", "model.num_hidden_layers", "must be from 1"},
    {"model {vocab_size: 1}", "model.vocab_size", "must be from 4"},
    {"model {rope_theta: 0}", "model.rope_theta", "must be from 1"},
    {"model {rms_norm_eps: 0}", "model.rms_norm_eps", "must be above 0"},
    {"model {dropout: 1.5}", "model.dropout", "must be from 0 to below 1"},
    {"model {dropout: 1}", "model.dropout", "must be from 0 to below 1"},
    {"model {dropout: -0.1}", "model.dropout", "must be from 0 to below 1"},
    {"model {dropout: nan}", "model.dropout", "must be from 0 to below 1"},
    {"model {use_moe: true num_experts_per_tok: 5}", "model.num_experts_per_tok",
     "must be from 1 to 4"},
    {"model {use_moe: true num_experts_per_tok: 0}", "model.num_experts_per_tok", "must be from 1"},
    {"model {use_moe: true n_routed_experts: 0}", "model.n_routed_experts", "must be from 1"},
    {"model {use_moe: true n_shared_experts: -1}", "model.n_shared_experts", "must be from 0"},
    {"model {use_moe: true aux_loss_alpha: -1}", "model.aux_loss_alpha", "must be from 0"},
    {"data {more_paths: 'more.jsonl'}", "data.more_paths[0]", "must be an absolute path"},
    {"data {more_paths: ''}", "data.more_paths[0]", "is missing"},
    {"data {more_paths: ['/a', '/b', '/a']}", "data.more_paths[2]", "is given before"},
    {"data {malformed_lines: 'ignore'}", "data.malformed_lines", "must be refuse or skip"},
    {"data {validation_fraction: 0.6}", "data.validation_fraction", "must be from 0 to 0.5"},
    {"data {validation_fraction: -0.1}", "data.validation_fraction", "must be from 0"},
    {"data {validation_fraction: nan}", "data.validation_fraction", "must be from 0"},
    {"training {nan_policy: 'ignore'}", "training.nan_policy", "must be stop, skip or rollback"},
    {"lora {}", "training.init_from", "is missing: lora trains adapters"},
    {"lora {rank: 0} training {init_from: '/m'}", "lora.rank", "must be from 1 to 512"},
    {"lora {rank: 513} training {init_from: '/m'}", "lora.rank", "must be from 1 to 512"},
    {"lora {} training {init_from: '/m'} model {head_dim: 32}", "lora", "no square projection"},
    {"lora {} training {init_from: '/m'} model {head_dim: 9223372036854775807}", "model.head_dim",
     "must be from 1 to 4096"},
    {"training {epochs: 0}", "training.epochs", "must be from 1"},
    {"training {microbatch_size: 0}", "training.microbatch_size", "must be from 1"},
    {"training {accumulation_steps: 0}", "training.accumulation_steps", "must be from 1"},
    {"training {learning_rate: 0}", "training.learning_rate", "must be above 0"},
    {"training {learning_rate: -1}", "training.learning_rate", "must be above 0"},
    {"training {learning_rate: nan}", "training.learning_rate", "must be above 0"},
    {"training {learning_rate: inf}", "training.learning_rate", "must be above 0"},
    {"training {grad_clip: -1}", "training.grad_clip", "must be from 0"},
    {"training {weight_decay: -0.1}", "training.weight_decay", "must be from 0"},
    {"training {dtype: 'int8'}", "training.dtype", "must be bfloat16, float16 or float32"},
    {"training {max_steps: -5}", "training.max_steps", "must be at least 0"},
    {"training {init_from: 'model'}", "training.init_from", "must be an absolute path"},
    {"workers {min: 0}", "workers.min", "must be from 1"},
    {"workers {min: 3 max: 2}", "workers.min", "at most workers.max (2)"},
    {"workers {max: 64}", "workers.max", "at most training.accumulation_steps (8)"},
    {"workers {device: 'tpu'}", "workers.device", "must be any, cpu or cuda"},
    {"priority: 2000000", "priority", "must be from -1000000 to 1000000"},
    {"checkpoint {dir: ''}", "checkpoint.dir", "is missing"},
    {"checkpoint {dir: 'here'}", "checkpoint.dir", "must be an absolute path"},
    {"checkpoint {keep_last: 0}", "checkpoint.keep_last", "must be from 1"},
    {"checkpoint {keep_every: -1}", "checkpoint.keep_every", "must be at least 0"},
    {"checkpoint {every_steps: -1}", "checkpoint.every_steps", "must be at least 0"},
    {"log_every_steps: 0", "log_every_steps", "must be at least 1"},
    {"max_failures: -1", "max_failures", "must be from 0"},
};

TEST(ValidateJob, NamesTheFieldAndTheRemedyOfEachBadJob) {
  for (const BadJob& bad : kBadJobs) {
    SCOPED_TRACE(bad.change);
    v1::JobSpec spec = GoodJob("tang");
    // The text replaces what it names: clear strings first, since merging '' would keep them.
    v1::JobSpec change;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(bad.change, &change));
    if (std::string(bad.change).find("''") != std::string::npos) {
      if (std::string(bad.field) == "name") spec.clear_name();
      if (std::string(bad.field) == "data.path") spec.mutable_data()->clear_path();
      if (std::string(bad.field) == "data.tokenizer") spec.mutable_data()->clear_tokenizer();
      if (std::string(bad.field) == "checkpoint.dir") spec.mutable_checkpoint()->clear_dir();
    }
    spec.MergeFrom(change);
    const ValidatedJob job = ValidateJob(spec);
    ASSERT_EQ(job.violations.size(), 1u);
    EXPECT_EQ(job.violations[0].field, bad.field);
    EXPECT_THAT(job.violations[0].description, HasSubstr(bad.says));
  }
}

TEST(ValidateJob, ListsAllProblemsOfAnEmptyJob) {
  const ValidatedJob job = ValidateJob(v1::JobSpec());
  std::vector<std::string> fields;
  for (const FieldViolation& violation : job.violations) fields.push_back(violation.field);
  EXPECT_THAT(fields,
              testing::ElementsAre("name", "data.path", "data.tokenizer", "checkpoint.dir"));
}

TEST(ValidateJob, AcceptsWhatTheReferenceCanDo) {
  v1::JobSpec change;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "model {use_moe: true qk_norm: true dropout: 0.1 num_attention_heads: 6 head_dim: 96}"
      "data {more_paths: ['/b', '/c.jsonl.zst'] malformed_lines: 'skip' validation_fraction: 0.05}"
      "training {dtype: 'float16' nan_policy: 'rollback' init_from: '/base.pth'}",
      &change));
  v1::JobSpec spec = GoodJob("tang");
  spec.MergeFrom(change);
  EXPECT_THAT(ValidateJob(spec).violations, IsEmpty());
  EXPECT_THAT(ValidateJob(spec).warnings, IsEmpty());
}

TEST(ValidateJob, AHeadDimThatIsGivenNeedNotDivideTheHiddenSize) {
  v1::JobSpec spec = GoodJob("tang");
  spec.mutable_model()->set_hidden_size(100);
  spec.mutable_model()->set_num_attention_heads(8);
  spec.mutable_model()->set_head_dim(12);  // what 100 / 8 comes to as well
  EXPECT_THAT(ValidateJob(spec).violations, IsEmpty());
  spec.mutable_model()->clear_head_dim();
  ASSERT_EQ(ValidateJob(spec).violations.size(), 1u);
  EXPECT_THAT(ValidateJob(spec).violations[0].description, HasSubstr("head_dim must be given"));
}

TEST(ValidateJob, FillsInTheDefaultsOfWhatIsAskedFor) {
  v1::JobSpec spec = GoodJob("tang");
  EXPECT_FALSE(ValidateJob(spec).spec.has_lora());
  spec.mutable_lora();
  spec.mutable_training()->set_init_from("/base");
  const ValidatedJob job = ValidateJob(spec);
  EXPECT_THAT(job.violations, IsEmpty());
  EXPECT_EQ(job.spec.lora().rank(), 8);
  EXPECT_EQ(job.spec.data().malformed_lines(), "refuse");
  EXPECT_EQ(job.spec.data().validation_fraction(), 0);
  EXPECT_EQ(job.spec.training().nan_policy(), "stop");
}

TEST(ValidateJob, WarnsOfSettingsThatHardlyHelp) {
  v1::JobSpec spec = GoodJob("tang");
  spec.mutable_checkpoint()->set_every_steps(0);
  spec.mutable_data()->set_validation_fraction(0.1);
  spec.mutable_training()->set_nan_policy("rollback");
  spec.mutable_training()->set_dtype("float16");
  spec.mutable_workers()->set_device("cpu");
  EXPECT_THAT(ValidateJob(spec).warnings,
              testing::ElementsAre(HasSubstr("only the last step is kept"),
                                   HasSubstr("after the last step alone"),
                                   HasSubstr("goes back to the start"), HasSubstr("on the CPU")));
}

TEST(ValidateJob, NamesHaveALimit) {
  EXPECT_EQ(CheckName(std::string(63, 'a')), "");
  EXPECT_THAT(CheckName(std::string(64, 'a')), HasSubstr("at most 63"));
}

}  // namespace
}  // namespace mindforge
