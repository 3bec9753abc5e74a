// The real binary: usage, exit statuses, what goes to which stream, formats.
#include <signal.h>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/error_details.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program_fixture.h"

namespace mindforge::cli {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(ProgramTest, UsageErrorsAreStatus2AndNameTheRemedy) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {},
           {"job"},
           {"job", "lst"},
           {"converse"},
           {"checkpoint", "export", "a", "1"},
           {"model", "eval"},
           {"job", "get"},
           {"job", "list", "--bogus"},
           {"job", "list", "-o", "xml"},
           {"job", "list", "--timeout", "5"},
           {"job", "list", "--state", "runing"},
           {"--server", "nonsense", "job", "list"},
           {"job", "submit", "-f", "missing.yaml"},
           {"job", "submit", "-f", "job.yaml", "--set", "nonsense"},
           {"job", "submit", "-f", "job.yaml", "--follow", "--wait"},
           {"checkpoint", "verify", "a", "x"},
           {"model", "deploy", "m"},
           {"model", "deploy", "m", "--job", "a", "--path", "b"},
           {"model", "deploy", "m", "--path", "b", "--step", "1"},
           {"model", "deploy", "m", "--job", "a", "--prompt-style", "poem"},
           {"job", "metrics", "a", "--csv", "-o", "json"},
           {"job", "list", "--token-file", "/nonexistent"},
           {"job", "list", "--tls-ca", "/nonexistent"},
           {"completion", "tcsh"},
           {"tokenizer", "decode", "--tokenizer", "/nonexistent", "x"}}) {
    const Result result = Mindforge(arguments);
    EXPECT_EQ(result.exit, 2) << testing::PrintToString(arguments) << result.err;
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, StartsWith("mindforge: error: "));
  }
  EXPECT_THAT(Mindforge({"job", "lst"}).err, HasSubstr("did you mean 'list'"));
  EXPECT_THAT(Mindforge({"job", "list", "--state", "runing"}).err, HasSubstr("'running'"));
}

TEST_F(ProgramTest, HelpAndVersionAreDataAndStatus0) {
  const Result help = Mindforge({"--help"});
  EXPECT_EQ(help.exit, 0);
  EXPECT_THAT(help.out, AllOf(HasSubstr("generate"), HasSubstr("124"), HasSubstr("chat")));
  EXPECT_THAT(help.err, IsEmpty());
  EXPECT_THAT(Mindforge({"version"}).out, StartsWith("mindforge 0."));
  EXPECT_THAT(Mindforge({"--version"}).out, StartsWith("mindforge 0."));
  EXPECT_TRUE(json::parse(Mindforge({"version", "-o", "json"}).out).contains("version"));
}

TEST_F(ProgramTest, EachServerErrorHasItsExitStatus) {
  using absl::StatusCode;
  for (const auto& [code, exit] :
       std::vector<std::pair<StatusCode, int>>{{StatusCode::kNotFound, 3},
                                               {StatusCode::kUnauthenticated, 4},
                                               {StatusCode::kPermissionDenied, 4},
                                               {StatusCode::kUnavailable, 5},
                                               {StatusCode::kInvalidArgument, 2},
                                               {StatusCode::kFailedPrecondition, 1},
                                               {StatusCode::kUnimplemented, 1},
                                               {StatusCode::kInternal, 1}}) {
    SetError(Error(code, "SOME_REASON", "said so"));
    const Result result = Mindforge({"job", "get", "tang"});
    EXPECT_EQ(result.exit, exit) << absl::StatusCodeToString(code);
    EXPECT_THAT(result.err, HasSubstr("cannot get job 'tang': said so"));
    EXPECT_THAT(result.out, IsEmpty());
  }
  fake_.Stop();
  const Result gone = Mindforge({"job", "list"});
  EXPECT_EQ(gone.exit, 5);
  EXPECT_THAT(gone.err, AllOf(HasSubstr("mindforge-coordinator"), HasSubstr("doctor")));
}

TEST_F(ProgramTest, TimeoutIsStatus124) {
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.hold_generation = true;
  }
  const Result result = Mindforge({"generate", "-p", "x", "--no-chat", "--timeout", "100ms"});
  EXPECT_EQ(result.exit, 124);
  EXPECT_THAT(result.err, HasSubstr("--timeout 100ms ran out"));
}

TEST_F(ProgramTest, ListTurnsPagesAndFitsATerminal) {
  for (int i = 0; i < 5; ++i) fake_.AddJob(RunningJob("job-" + std::to_string(i)));
  EXPECT_EQ(Mindforge({"job", "list", "-o", "name"}).out, "job-0\njob-1\njob-2\njob-3\njob-4\n");
  EXPECT_EQ(json::parse(Mindforge({"job", "list", "-o", "json"}).out)["jobs"].size(), 5u);
  EXPECT_THAT(Mindforge({"job", "list", "-o", "yaml"}).out, HasSubstr("name: job-4"));
  EXPECT_THAT(Mindforge({"job", "list", "-o", "wide"}).out, HasSubstr("GENERATION"));
  EXPECT_EQ(Mindforge({"job", "list", "--state", "running"}).exit, 0);
  {
    MutexLock lock(fake_.state.mutex);
    ASSERT_EQ(fake_.state.listed.back().states_size(), 1);
    EXPECT_EQ(fake_.state.listed.back().states(0), v1::JOB_STATE_RUNNING);
  }
  ProgramOptions options = Options({"job", "list"});
  options.terminal = true;
  options.terminal_width = 50;
  options.environment.push_back("NO_COLOR=1");
  const std::vector<std::string> lines = absl::StrSplit(RunProgram(options).out, "\r\n");
  for (const std::string& line : lines) EXPECT_LE(line.size(), 50u);
  MutexLock lock(fake_.state.mutex);
  EXPECT_EQ(fake_.state.listed.back().states_size(), 0);
}

TEST_F(ProgramTest, AListHasOneBoundedLineAJobAndGetTheWholeReason) {
  v1::Job job = RunningJob("tang");
  const std::string reason = "rank 0:\nstep 7 " + std::string(1500, 'x') + " the end";
  job.set_reason(reason);
  job.set_checkpoint_failures(9);
  job.set_checkpoint_error("step 90: No space left on device");
  fake_.AddJob(job);
  const std::string list = Mindforge({"job", "list"}).out;
  const std::vector<std::string> lines = absl::StrSplit(list, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 2u) << list;
  EXPECT_LT(lines[1].size(), 300u);
  EXPECT_THAT(lines[1], HasSubstr("rank 0: step 7 xxx"));
  EXPECT_THAT(Mindforge({"job", "get", "tang"}).out,
              AllOf(HasSubstr(" the end"),
                    HasSubstr("the last 9 checkpoints: step 90: No space left on device")));
  EXPECT_THAT(Mindforge({"job", "cancel", "tang"}).out, HasSubstr(" the end"));
}

TEST_F(ProgramTest, AWorkerShowsWhatIsSetAside) {
  v1::Worker worker;
  worker.set_name("w1");
  worker.set_state(v1::WORKER_STATE_READY);
  v1::WorkerDevice& device = *worker.add_devices();
  device.mutable_device()->set_id("cuda:0");
  device.mutable_set_aside_until()->set_seconds(absl::ToUnixSeconds(absl::Now()) + 3600);
  device.set_set_aside_reason("2 failures in a row, the last: CUDA error");
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.workers = {worker};
  }
  EXPECT_THAT(Mindforge({"worker", "get", "w1"}).out,
              AllOf(HasSubstr("SET ASIDE"), AnyOf(HasSubstr("59m"), HasSubstr("1h0m")),
                    HasSubstr("cuda:0 is set aside after 2 failures in a row, the last: CUDA "
                              "error\nmindforge worker resume w1")));
}

TEST_F(ProgramTest, GetAndWhySayWhatIsKnown) {
  fake_.AddJob(RunningJob("tang"));
  {
    MutexLock lock(fake_.state.mutex);
    v1::JobEvent event;
    event.set_state(v1::JOB_STATE_QUEUED);
    event.set_reason("no device is free: 2 of 2 are busy");
    fake_.state.events.push_back(event);
  }
  EXPECT_THAT(Mindforge({"job", "get", "tang"}).out,
              AllOf(HasSubstr("rank 1 on w1 cpu:0"), HasSubstr("Job file:")));
  EXPECT_EQ(json::parse(Mindforge({"job", "get", "tang", "-o", "json"}).out)["id"], "jtang");
  EXPECT_THAT(Mindforge({"job", "why", "tang"}).out,
              AllOf(HasSubstr("tang is RUNNING: 2 devices"), HasSubstr("2 of 2 are busy")));
  EXPECT_EQ(json::parse(Mindforge({"job", "why", "tang", "-o", "json"}).out)["events"].size(), 1u);
  EXPECT_EQ(Mindforge({"job", "cancel", "tang", "-o", "name"}).out, "tang\n");
  EXPECT_EQ(Mindforge({"job", "delete", "tang"}).exit, 0);
  EXPECT_EQ(Mindforge({"job", "delete", "none"}).exit, 3);
}

TEST_F(ProgramTest, LogsAndMetricsStream) {
  fake_.AddJob(RunningJob("tang"));
  fake_.AddRecord("tang", StepRecord(1, 2));
  fake_.AddRecord("tang", StepRecord(2, 2));
  {
    MutexLock lock(fake_.state.mutex);
    for (int rank : {-1, 0, 1}) {
      v1::LogLine line;
      line.set_rank(rank);
      line.set_level(rank == 1 ? v1::LOG_LEVEL_ERROR : v1::LOG_LEVEL_INFO);
      line.set_text("said by " + std::to_string(rank));
      fake_.state.logs.push_back(line);
    }
  }
  const Result logs = Mindforge({"job", "logs", "tang"});
  EXPECT_EQ(logs.exit, 0);
  EXPECT_THAT(logs.out, AllOf(HasSubstr("agent INFO said by -1"), HasSubstr("ERROR said by 1")));
  EXPECT_THAT(Mindforge({"job", "logs", "tang", "--rank", "1"}).out, Not(HasSubstr("agent")));
  EXPECT_THAT(Mindforge({"job", "logs", "tang", "--rank", "-1"}).out, HasSubstr("agent"));
  const std::vector<std::string> csv =
      absl::StrSplit(Mindforge({"job", "metrics", "tang", "--csv"}).out, '\n', absl::SkipEmpty());
  ASSERT_EQ(csv.size(), 3u);
  EXPECT_THAT(csv[0], StartsWith("step,total_steps,"));
  EXPECT_THAT(csv[0], EndsWith(",validation_loss,loss_scale,skipped_steps,skipped"));
  EXPECT_THAT(csv[2], StartsWith("2,2,1,0,2,7.63,0.0005,"));
  EXPECT_THAT(csv[2], EndsWith(",8;8,,,0,0"));
  const std::vector<std::string> lines = absl::StrSplit(
      Mindforge({"job", "metrics", "tang", "-o", "json"}).out, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(json::parse(lines[1])["step"], 2);
}

TEST_F(ProgramTest, AReaderThatIsGoneEndsItQuietlyAsItDoesCat) {
  fake_.AddJob(RunningJob("tang"));
  fake_.AddRecord("tang", StepRecord(1, 2));
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.pieces = {"moonlight"};
  }
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"completion", "bash"},
                                             {"job", "list"},
                                             {"job", "example"},
                                             {"job", "metrics", "tang", "--csv"},
                                             {"generate", "-p", "moon"},
                                             {"--help"}}) {
    ProgramOptions options = Options(arguments);
    options.reader_gone = true;
    const Result result = RunProgram(options);
    EXPECT_EQ(result.exit, 128 + SIGPIPE) << arguments[0] << " " << result.err;
    EXPECT_THAT(result.err, Not(HasSubstr("error"))) << arguments[0];
  }
}

TEST_F(ProgramTest, TextThatIsNotUtf8IsRefusedBeforeItIsSent) {
  ProgramOptions prompt = Options({"generate"});
  prompt.standard_input = "caf\xe9";
  const Result generate = RunProgram(prompt);
  EXPECT_EQ(generate.exit, 2) << generate.err;
  EXPECT_THAT(generate.err, HasSubstr("text: is not UTF-8: byte 0xE9 at offset 3"));
  EXPECT_THAT(generate.err, Not(HasSubstr("libprotobuf")));
  for (const char* command : {"get", "logs", "watch", "cancel"}) {
    const Result result = Mindforge({"job", command, "caf\xe9"});
    EXPECT_EQ(result.exit, 2) << command << result.err;
    EXPECT_THAT(result.err, HasSubstr("job: is not UTF-8")) << command;
    EXPECT_THAT(result.err, Not(HasSubstr("libprotobuf")));
  }
}

TEST_F(ProgramTest, AnAddressWithASchemeIsRefusedInWords) {
  const Result web = Mindforge({"--server", "http://127.0.0.1:7070", "job", "list"});
  EXPECT_EQ(web.exit, 2);
  EXPECT_THAT(web.err, HasSubstr("leave out 'http://'"));
  EXPECT_THAT(Mindforge({"--server", "[::1]", "job", "list"}).err,
              HasSubstr("the port is missing"));
}

TEST_F(ProgramTest, VerifyWaitsForTheWorkersWord) {
  {
    MutexLock lock(fake_.state.mutex);
    v1::Checkpoint one;
    one.set_step(100);
    one.set_state(v1::CHECKPOINT_STATE_COMMITTED);
    fake_.state.checkpoints.push_back(one);
    fake_.state.polls_until_verified = 1;
  }
  const Result valid = Mindforge({"checkpoint", "verify", "tang", "100"});
  EXPECT_EQ(valid.exit, 0) << valid.err;
  EXPECT_THAT(valid.out, HasSubstr("valid"));
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.verified_as = v1::VERIFICATION_STATE_CORRUPT;
  }
  const Result corrupt = Mindforge({"checkpoint", "verify", "tang", "100"});
  EXPECT_EQ(corrupt.exit, 1);
  EXPECT_THAT(corrupt.err, HasSubstr("does not read back"));
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.verified_as = v1::VERIFICATION_STATE_UNREADABLE;
  }
  const Result unreadable = Mindforge({"checkpoint", "verify", "tang", "100"});
  EXPECT_NE(unreadable.exit, 0);
  EXPECT_THAT(unreadable.err, HasSubstr("nothing is known of its content"));
  EXPECT_EQ(Mindforge({"checkpoint", "verify", "tang", "7"}).exit, 3);
  EXPECT_EQ(Mindforge({"checkpoint", "list", "tang", "-o", "name"}).out, "100\n");
}

}  // namespace
}  // namespace mindforge::cli
