// Submitting and following jobs with the real binary.
#include <signal.h>

#include "common/error_details.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program_fixture.h"

namespace mindforge::cli {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(ProgramTest, SubmitSendsTheFileAndPrintsTheJob) {
  const Result result = Mindforge({"job", "submit", "-f", "job.yaml", "--set",
                                   "training.learning_rate=1e-3", "--set", "workers.max=2"});
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("tang"), HasSubstr("QUEUED"), HasSubstr("waiting for")));
  EXPECT_THAT(result.err, HasSubstr("relative to the job file's folder"));
  MutexLock lock(fake_.state.mutex);
  ASSERT_EQ(fake_.state.submitted.size(), 1u);
  const v1::SubmitJobRequest& request = fake_.state.submitted[0];
  EXPECT_EQ(request.job().training().learning_rate(), 1e-3);
  EXPECT_EQ(request.job().workers().max(), 2);
  EXPECT_EQ(request.job().data().path(), (folder_ / "a.jsonl").string());
  EXPECT_EQ(request.request_id().size(), 36u);
  EXPECT_FALSE(request.validate_only());
}

TEST_F(ProgramTest, SubmitReadsStdinAndSpeaksJsonAndName) {
  ProgramOptions options = Options({"job", "submit", "-f", "-", "-o", "json"});
  options.standard_input = kJobFile;
  const Result result = RunProgram(options);
  EXPECT_EQ(result.exit, 0) << result.err;
  const json job = json::parse(result.out);
  EXPECT_EQ(job["spec"]["name"], "tang");
  EXPECT_EQ(job["state"], "JOB_STATE_QUEUED");
  EXPECT_EQ(job["last_checkpoint_step"], -1) << "names as in the proto";
  EXPECT_EQ(Mindforge({"job", "submit", "-f", "job.yaml", "-o", "name"}).out, "tang\n");
}

TEST_F(ProgramTest, DryRunSubmitsNothing) {
  const Result result = Mindforge({"job", "submit", "-f", "job.yaml", "--dry-run"});
  EXPECT_EQ(result.exit, 0);
  EXPECT_THAT(result.out, HasSubstr("name: tang"));
  MutexLock lock(fake_.state.mutex);
  EXPECT_TRUE(fake_.state.submitted[0].validate_only());
  EXPECT_TRUE(fake_.state.jobs.empty());
}

TEST_F(ProgramTest, ARefusedJobFileIsStatus2WithOneViolationALine) {
  SetError(InvalidArgument({{"workers.max", "9 is more than accumulation_steps 8"},
                            {"training.dtype", "'int8' is not one of bfloat16, float32"}}));
  const Result result = Mindforge({"job", "submit", "-f", "job.yaml"});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err, HasSubstr("2 problems:\n  workers.max: 9 is more"));
  EXPECT_THAT(result.err, HasSubstr("\n  training.dtype: 'int8' is not"));
}

TEST_F(ProgramTest, MoreViolationsThanAReplyHoldsAreCounted) {
  SetError(InvalidArgument(std::vector<FieldViolation>(500, {"data.path", "is missing"})));
  const Result result = Mindforge({"job", "submit", "-f", "job.yaml"});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err,
              testing::ContainsRegex("at least [0-9]+ problems:\n(  data.path: is missing\n)+"
                                     "  and [0-9]+ more\n"));
}

TEST_F(ProgramTest, SubmitTriesAgainWithTheSameRequestIdAndTellsIt) {
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.fail_submits = 1;
  }
  const Result result = Mindforge({"job", "submit", "-f", "job.yaml"});
  EXPECT_EQ(result.exit, 0) << result.err;
  MutexLock lock(fake_.state.mutex);
  ASSERT_EQ(fake_.state.submitted.size(), 2u);
  EXPECT_EQ(fake_.state.submitted[0].request_id(), fake_.state.submitted[1].request_id());
  EXPECT_THAT(result.err, HasSubstr("--request-id " + fake_.state.submitted[0].request_id()));
}

TEST_F(ProgramTest, CtrlCAndTimeoutEndTheRetries) {
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.fail_submits = 100;
  }
  Program program(Options({"job", "submit", "-f", "job.yaml"}));
  ASSERT_TRUE(program.WaitForErr("trying again"));
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_THAT(program.err(), Not(HasSubstr("signal"))) << "that is the servers' way to say it";
  EXPECT_EQ(Mindforge({"job", "submit", "-f", "job.yaml", "--timeout", "300ms"}).exit, 124);
}

TEST_F(ProgramTest, FollowShowsStepsAndEndsAsTheJobDoes) {
  for (const auto& [state, exit] : std::vector<std::pair<v1::JobState, int>>{
           {v1::JOB_STATE_SUCCEEDED, 0}, {v1::JOB_STATE_FAILED, 6}, {v1::JOB_STATE_CANCELLED, 7}}) {
    const std::string name = "job-" + std::to_string(exit);
    Program program(Options(
        {"job", "submit", "-f", "job.yaml", "--set", "name=" + name, "--follow", "-o", "json"}));
    ASSERT_TRUE(fake_.WaitForWatchers(1)) << program.err();
    fake_.SetState(name, v1::JOB_STATE_RUNNING, "2 devices");
    for (int step = 1; step <= 20; ++step) fake_.AddRecord(name, StepRecord(step, 20));
    // States and steps come by streams of their own: see both before the end.
    ASSERT_TRUE(program.WaitForErr("RUNNING: 2 devices")) << program.err();
    ASSERT_TRUE(program.WaitForErr("(20/20)")) << program.err();
    fake_.SetState(name, state, "because");
    EXPECT_EQ(program.Wait(), exit) << program.err();
    EXPECT_THAT(program.err(), AllOf(HasSubstr("RUNNING: 2 devices"), HasSubstr("(10/20)"),
                                     HasSubstr("sequences:8+8"), HasSubstr(": because")));
    EXPECT_EQ(json::parse(program.out())["reason"], "because") << "stdout is one document";
  }
}

TEST_F(ProgramTest, WaitIsSilent) {
  Program program(Options({"job", "submit", "-f", "job.yaml", "--wait"}));
  ASSERT_TRUE(fake_.WaitForWatchers(1));
  fake_.AddRecord("tang", StepRecord(1, 1));
  fake_.SetState("tang", v1::JOB_STATE_SUCCEEDED, "all steps done");
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(program.err(), Not(HasSubstr("Epoch:")));
  EXPECT_THAT(program.out(), HasSubstr("SUCCEEDED"));
}

TEST_F(ProgramTest, FollowOutlivesTheCoordinatorsRestart) {
  fake_.AddJob(RunningJob("tang"));
  Program program(Options({"job", "watch", "tang"}));
  ASSERT_TRUE(program.WaitForOut("tang RUNNING"));
  fake_.Stop();
  ASSERT_TRUE(program.WaitForErr("was lost; trying again")) << program.out();
  {
    // Another job has the name by now.
    MutexLock lock(fake_.state.mutex);
    v1::Job other = fake_.state.jobs[0];
    other.set_id("jother");
    other.set_state(v1::JOB_STATE_FAILED);
    fake_.state.jobs.insert(fake_.state.jobs.begin(), other);
  }
  fake_.Start();
  ASSERT_TRUE(program.WaitForErr("connected again")) << program.out();
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.jobs.erase(fake_.state.jobs.begin());
  }
  fake_.AddRecord("tang", StepRecord(20, 20));
  fake_.SetState("tang", v1::JOB_STATE_SUCCEEDED, "all steps done");
  EXPECT_EQ(program.Wait(), 0) << program.out() << program.err();
  const std::string err = program.err();
  EXPECT_EQ(err.find("was lost"), err.rfind("was lost")) << "said once: " << err;
  EXPECT_THAT(program.out(), AllOf(HasSubstr("(20/20)"), HasSubstr("SUCCEEDED"),
                                   Not(HasSubstr("FAILED")), Not(HasSubstr("mindforge:"))));
}

TEST_F(ProgramTest, CtrlCDetachesAndLeavesTheJobRunning) {
  fake_.AddJob(RunningJob("tang"));
  Program program(Options({"job", "watch", "tang"}));
  ASSERT_TRUE(program.WaitForOut("tang RUNNING"));
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_THAT(program.err(), HasSubstr("Attach again with: mindforge job watch tang"));
  MutexLock lock(fake_.state.mutex);
  EXPECT_EQ(fake_.state.jobs[0].state(), v1::JOB_STATE_RUNNING);
}

TEST_F(ProgramTest, TimeoutDetachesToo) {
  fake_.AddJob(RunningJob("tang"));
  const Result result = Mindforge({"job", "watch", "tang", "--timeout", "200ms"});
  EXPECT_EQ(result.exit, 124);
  EXPECT_THAT(result.err, HasSubstr("Attach again with: mindforge job watch tang"));
}

TEST_F(ProgramTest, OnATerminalTheProgressLineIsRedrawnWhereItMayBe) {
  for (const std::string setting : {"TERM=xterm", "NO_COLOR=1", "TERM=dumb"}) {
    const std::string name = "tang-" + setting.substr(setting.size() - 1);
    fake_.AddJob(RunningJob(name));
    ProgramOptions options = Options({"job", "watch", name});
    options.terminal = true;
    options.environment.insert(options.environment.end(), {"TERM=xterm", setting});
    Program program(options);
    ASSERT_TRUE(program.WaitForOut("RUNNING"));
    fake_.AddRecord(name, StepRecord(5, 2000));
    const bool redraws = setting == "TERM=xterm";
    ASSERT_TRUE(program.WaitForOut(redraws ? "5/2,000" : "(5/2000)")) << program.out();
    fake_.SetState(name, v1::JOB_STATE_SUCCEEDED, "done");
    EXPECT_EQ(program.Wait(), 0);
    if (redraws) {
      EXPECT_THAT(program.out(), HasSubstr("\r\x1b[K"));
    } else {
      EXPECT_THAT(program.out(), Not(HasSubstr("\x1b"))) << setting;
    }
  }
}

TEST_F(ProgramTest, WatchSpeaksJsonLines) {
  v1::Job job = RunningJob("tang");
  job.set_state(v1::JOB_STATE_FAILED);
  fake_.AddJob(job);
  const Result result = Mindforge({"job", "watch", "tang", "-o", "json"});
  EXPECT_EQ(result.exit, 6);
  EXPECT_EQ(json::parse(result.out)["state"], "JOB_STATE_FAILED");
  EXPECT_EQ(Mindforge({"job", "watch", "none"}).exit, 3);
}

}  // namespace
}  // namespace mindforge::cli
