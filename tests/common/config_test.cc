#include "common/config.h"

#include "common/durable_file.h"
#include "common/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mindforge/v1/config.pb.h"
#include "mindforge/v1/types.pb.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Problem(const std::string& yaml) {
  v1::JobSpec spec;
  const absl::Status status = ParseYaml(yaml, "job.yaml", &spec);
  return std::string(status.message());
}

TEST(ParseYaml, FillsScalarsMessagesAndOptionals) {
  v1::JobSpec spec;
  const absl::Status status = ParseYaml(R"(
name: tang
model: {hidden_size: 192, flash_attention: false, rope_theta: 1e6}
data:
  path: /data/a b.jsonl
training: {learning_rate: 5e-4, max_steps: 1e3, seed: 18446744073709551615}
workers: {min: 1, max: 8}
priority: -3
)",
                                        "job.yaml", &spec);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(spec.name(), "tang");
  EXPECT_EQ(spec.model().hidden_size(), 192);
  EXPECT_TRUE(spec.model().has_flash_attention());
  EXPECT_FALSE(spec.model().flash_attention());
  EXPECT_FALSE(spec.model().has_dropout());
  EXPECT_EQ(spec.data().path(), "/data/a b.jsonl");
  EXPECT_DOUBLE_EQ(spec.training().learning_rate(), 5e-4);
  EXPECT_EQ(spec.training().max_steps(), 1000);
  EXPECT_EQ(spec.training().seed(), 18446744073709551615u);
  EXPECT_EQ(spec.workers().max(), 8);
  EXPECT_EQ(spec.priority(), -3);
}

TEST(ParseYaml, NamesPlaceAndNearestNameOfAnUnknownKey) {
  EXPECT_EQ(Problem("name: x\ntraining:\n  learnig_rate: 1\n"),
            "job.yaml:3:3: training.learnig_rate: unknown key 'learnig_rate'; did you mean "
            "'learning_rate'?");
  EXPECT_THAT(Problem("zebra: 1"), HasSubstr("known here: name, model"));
}

TEST(ParseYaml, ListsAllProblemsAtOnce) {
  v1::JobSpec spec;
  const absl::Status status =
      ParseYaml("nam: x\ntraining: {epochs: two, dtype: [a]}\nmodel: 7\nname: x\n", "j", &spec);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetReason(status), "INVALID_CONFIG");
  std::vector<std::string> fields;
  for (const auto& violation : GetViolations(status)) fields.push_back(violation.field);
  EXPECT_THAT(fields, ElementsAre("nam", "training.epochs", "training.dtype", "model"));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("j:2:20: training.epochs: expected a whole number, got 'two'"));
  EXPECT_EQ(spec.name(), "x") << "what could be read is there";
}

TEST(ParseYaml, RefusesNumbersThatDoNotFit) {
  EXPECT_THAT(Problem("priority: 3000000000"), HasSubstr("whole number"));
  EXPECT_THAT(Problem("training: {epochs: 1.5}"), HasSubstr("got '1.5'"));
  EXPECT_THAT(Problem("training: {seed: -1}"), HasSubstr("not negative"));
  EXPECT_THAT(Problem("training: {learning_rate: .nan}"), HasSubstr("expected a number"));
  EXPECT_THAT(Problem("training: {learning_rate: nan}"), HasSubstr("expected a number"));
  EXPECT_THAT(Problem("training: {max_steps: 1e17}"), HasSubstr("whole number"));
}

TEST(ParseYaml, RefusesBrokenYamlDoubleKeysAndLists) {
  EXPECT_THAT(Problem("name: [a"), HasSubstr("this is no YAML"));
  EXPECT_THAT(Problem("name: a\nname: b"), HasSubstr("job.yaml:2:1: name: the key is there twice"));
  EXPECT_THAT(Problem("- a\n- b"), HasSubstr("expected keys and values, got a list"));
  EXPECT_THAT(Problem("just text"), HasSubstr("expected keys and values"));
}

TEST(ParseYaml, RefusesASecondDocumentWithItsLine) {
  EXPECT_THAT(Problem("name: one\npriority: 1\n---\nname: two\n"),
              HasSubstr("job.yaml:3:1: a second document begins here"));
  EXPECT_THAT(Problem("# jobs\n---\nname: one\n--- {name: two}\n"), HasSubstr("job.yaml:4:1:"));
  EXPECT_THAT(Problem("name: one\r\n---\r\nname: two\r\n"), HasSubstr("job.yaml:2:1:"));
  EXPECT_THAT(Problem("name: one\n...\nname: two\n"), HasSubstr("job.yaml:3:1:"));
  // Borders around one document are fine.
  for (const char* one :
       {"---\nname: one\n", "%YAML 1.2\n---\nname: one\n...\n", "name: one\n---\n# nothing more\n",
        "\xef\xbb\xbf# jobs\n---\nname: one\n", "\xef\xbb\xbf---\nname: one\n",
        "name: \"a --- b\"\n", "name: |\n  one\n  ---\n  two\n"}) {
    EXPECT_EQ(Problem(one), "") << one;
  }
}

TEST(ParseYaml, EmptyTextAndEmptyKeysLeaveTheDefaults) {
  v1::JobSpec spec;
  spec.set_name("kept");
  EXPECT_TRUE(ParseYaml("", "j", &spec).ok());
  EXPECT_TRUE(ParseYaml("name:\ndata:\n", "j", &spec).ok());
  EXPECT_EQ(spec.name(), "kept");
}

TEST(ParseYaml, TakesEnumsListsMapsDurationsByTheirShortNames) {
  v1::Job job;
  ASSERT_TRUE(ParseYaml("state: running\nmembers: [{rank: 1}, {rank: 2, worker: w}]\n"
                        "progress: {time_left: 1m30s}",
                        "j", &job)
                  .ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_RUNNING);
  ASSERT_EQ(job.members_size(), 2);
  EXPECT_EQ(job.members(1).worker(), "w");
  EXPECT_EQ(job.progress().time_left().seconds(), 90);
  EXPECT_TRUE(ParseYaml("state: JOB_STATE_FAILED", "j", &job).ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  const absl::Status bad = ParseYaml("state: walking", "j", &job);
  EXPECT_THAT(std::string(bad.message()), HasSubstr("one of queued, starting, running"));
  v1::ProgressRecord record;
  ASSERT_TRUE(
      ParseYaml("phase_seconds: {compute: 0.5}\nsequences_by_rank: [8, 7]", "r", &record).ok());
  EXPECT_EQ(record.phase_seconds().at("compute"), 0.5);
  EXPECT_THAT(record.sequences_by_rank(), ElementsAre(8, 7));
  EXPECT_FALSE(ParseYaml("sequences_by_rank: 8", "r", &record).ok());
}

TEST(ParseYaml, DoesNotFollowNestingWithoutEnd) {
  // Depth is bounded before any message is: a deep flow list of brackets is refused, not followed.
  std::string deep = "data: ";
  for (int i = 0; i < 5000; ++i) deep += "{a: ";
  EXPECT_NE(Problem(deep), "");
}

TEST(LoadYamlConfig, ReadsAFileOrSaysWhyNot) {
  const TempDir dir;
  v1::CoordinatorConfig config;
  EXPECT_EQ(LoadYamlConfig(dir.File("none.yaml"), &config).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteFileDurably(dir.File("c.yaml"), "tls: {ca_file: ca.pem}\n").ok());
  ASSERT_TRUE(LoadYamlConfig(dir.File("c.yaml"), &config).ok());
  EXPECT_EQ(config.tls().ca_file(), "ca.pem");
}

TEST(SetField, SetsWhatThePathNames) {
  v1::JobSpec spec;
  EXPECT_TRUE(SetField(&spec, "training.learning_rate", "1e-3").ok());
  EXPECT_TRUE(ApplyOverride(&spec, "data.path=/a/[b]=c").ok());
  EXPECT_TRUE(ApplyOverride(&spec, "workers={min: 2, max: 3}").ok());
  EXPECT_DOUBLE_EQ(spec.training().learning_rate(), 1e-3);
  EXPECT_EQ(spec.data().path(), "/a/[b]=c");
  EXPECT_EQ(spec.workers().max(), 3);
  v1::ProgressRecord record;
  EXPECT_TRUE(SetField(&record, "phase_seconds.a.b", "2").ok());
  EXPECT_EQ(record.phase_seconds().at("a.b"), 2);
  EXPECT_TRUE(SetField(&record, "sequences_by_rank", "[1, 2]").ok());
  EXPECT_THAT(record.sequences_by_rank(), ElementsAre(1, 2));
}

TEST(SetField, RefusesWhatIsNotThere) {
  v1::JobSpec spec;
  const absl::Status unknown = SetField(&spec, "training.lerning_rate", "1");
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("did you mean 'learning_rate'"));
  EXPECT_FALSE(SetField(&spec, "training.epochs", "two").ok());
  EXPECT_FALSE(SetField(&spec, "name.x", "1").ok());
  EXPECT_FALSE(ApplyOverride(&spec, "name").ok());
  EXPECT_FALSE(ApplyOverride(&spec, "=x").ok());
}

TEST(ProtoToJson, KeepsNamesNumbersAndTimes) {
  v1::Job job;
  job.set_id("j");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_generation(9007199254740993);
  job.mutable_submitted_at()->set_seconds(1'700'000'000);
  job.mutable_progress()->mutable_time_left()->set_seconds(90);
  EXPECT_EQ(ProtoToJson(job, {.indent = -1}),
            R"({"id":"j","state":"JOB_STATE_RUNNING","generation":9007199254740993,)"
            R"("progress":{"time_left":"1m30s"},"submitted_at":"2023-11-14T22:13:20Z"})");
  EXPECT_THAT(ProtoToJson(job, {.with_defaults = true}), HasSubstr("\"failures\": 0"));
}

TEST(ProtoToYaml, ReadsBackAsItWas) {
  v1::JobSpec spec;
  spec.set_name("true");
  spec.mutable_data()->set_path("/a: #b\n\"c\"");
  spec.mutable_training()->set_learning_rate(5e-4);
  spec.mutable_training()->set_dtype("123");
  spec.mutable_workers()->set_min(0);
  v1::JobSpec again;
  const absl::Status status = ParseYaml(ProtoToYaml(spec), "again", &again);
  ASSERT_TRUE(status.ok()) << status << ProtoToYaml(spec);
  EXPECT_EQ(again.SerializeAsString(), spec.SerializeAsString()) << ProtoToYaml(spec);
}

}  // namespace
}  // namespace mindforge
