// The parts of the command line that need no server.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "cli/exit_code.h"
#include "cli/format.h"
#include "cli/generation.h"
#include "cli/job_file.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "common/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/samples.h"

namespace mindforge::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class JobFileTest : public ::testing::Test {
 protected:
  JobFileTest() : folder_(std::filesystem::path(::testing::TempDir()) / "job_file_test") {
    std::filesystem::create_directories(folder_);
    setlocale(LC_CTYPE, "C.UTF-8");
  }
  ~JobFileTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& text) {
    const std::string path = (folder_ / "job.yaml").string();
    std::ofstream(path) << text;
    return path;
  }
  absl::StatusOr<JobFile> Load(const std::string& text, std::vector<std::string> overrides = {}) {
    std::istringstream unused;
    return LoadJobFile(Write(text), unused, overrides);
  }

  const std::filesystem::path folder_;
};

TEST_F(JobFileTest, ExampleIsAJobFile) {
  const auto file = Load(ExampleJobFile());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->spec.name(), "tang-26m");
  EXPECT_EQ(file->spec.training().learning_rate(), 5e-4);
  EXPECT_EQ(file->spec.workers().max(), 8);
  EXPECT_EQ(file->spec.checkpoint().dir(), "/data/checkpoints");
  EXPECT_EQ(file->spec.max_failures(), 3);
  EXPECT_TRUE(file->notes.empty()) << "all its paths are absolute";
  for (const char* shown :
       {"recipe: minimind3", "format: conversations", "add_bos_eos: true",
        "schedule: cosine_from_lr", "random_system_fraction: 0.2", "drop_empty_think_fraction: 0.8",
        "num_experts: 4", "router_aux_loss_coef: 5e-4"}) {
    EXPECT_THAT(ExampleJobFile(), HasSubstr(shown));
  }
}

TEST_F(JobFileTest, RelativePathsAreTakenFromTheFilesFolderAndItSaysSo) {
  const auto file = Load("name: a\ndata: {path: texts/a.jsonl, tokenizer: ../tok}\n");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->spec.data().path(), (folder_ / "texts/a.jsonl").string());
  EXPECT_EQ(file->spec.data().tokenizer(), (folder_.parent_path() / "tok").string());
  ASSERT_EQ(file->notes.size(), 2u);
  EXPECT_THAT(file->notes[0], HasSubstr("the job file's folder"));
}

TEST_F(JobFileTest, TakesEveryDataPathFromItsFolder) {
  const auto file = Load("name: a\ndata: {path: /x, more_paths: [b.jsonl, /c]}\n");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->spec.data().more_paths(0), (folder_ / "b.jsonl").string());
  EXPECT_EQ(file->spec.data().more_paths(1), "/c");
  ASSERT_EQ(file->notes.size(), 1u);
  EXPECT_THAT(file->notes[0], HasSubstr("data.more_paths[0]"));
}

TEST_F(JobFileTest, OverridesWinAndTheirPathsAreTakenFromTheWorkingDirectory) {
  const auto file = Load("name: a\ntraining: {epochs: 1}\ndata: {path: x.jsonl}\n",
                         {"training.epochs=3", "data.path=y.jsonl", "workers.device=cpu"});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->spec.training().epochs(), 3);
  EXPECT_EQ(file->spec.data().path(), (std::filesystem::current_path() / "y.jsonl").string());
  EXPECT_EQ(file->spec.workers().device(), "cpu");
}

TEST_F(JobFileTest, EveryProblemIsListedAtOnceWithItsPlace) {
  const auto file = Load(
      "name: a\n"
      "model: {hiden_size: 512}\n"
      "training:\n"
      "  epochs: many\n"
      "  learning_rat: 1e-3\n",
      {"workers.mix=1", "nonsense"});
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(ExitCodeOf(file.status()), ExitCode::kUsage);
  const std::string message(file.status().message());
  EXPECT_THAT(message, HasSubstr("5 problems"));
  EXPECT_THAT(message, AllOf(HasSubstr("job.yaml:2:"), HasSubstr("hidden_size")));
  EXPECT_THAT(message, AllOf(HasSubstr("job.yaml:4:"), HasSubstr("epochs")));
  EXPECT_THAT(message, AllOf(HasSubstr("job.yaml:5:"), HasSubstr("learning_rate")));
  EXPECT_THAT(message, HasSubstr("--set workers.mix=1"));
  EXPECT_THAT(message, HasSubstr("--set nonsense"));
}

TEST_F(JobFileTest, RefusesWhatIsNoJobFile) {
  for (const std::string text :
       {"[1, 2]", "name: [a", "name: {a: b}", "just words", "training: 5", "name: a\nname: b\n"}) {
    const auto file = Load(text);
    EXPECT_FALSE(file.ok()) << text;
    EXPECT_EQ(ExitCodeOf(file.status()), ExitCode::kUsage) << file.status();
  }
  std::istringstream unused;
  const auto missing = LoadJobFile((folder_ / "none.yaml").string(), unused, {});
  EXPECT_EQ(ExitCodeOf(missing.status()), ExitCode::kUsage);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("job example"));
}

TEST(ExitCode, EachStatusHasItsOwn) {
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("")), ExitCode::kNotFound);
  EXPECT_EQ(ExitCodeOf(OfServer(absl::UnauthenticatedError(""))), ExitCode::kNotAllowed);
  EXPECT_EQ(ExitCodeOf(OfServer(absl::PermissionDeniedError(""))), ExitCode::kNotAllowed);
  EXPECT_EQ(ExitCodeOf(OfServer(absl::UnavailableError(""))), ExitCode::kUnavailable);
  EXPECT_EQ(ExitCodeOf(absl::PermissionDeniedError("of a file")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("of a disk")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOf(absl::DeadlineExceededError("")), ExitCode::kTimeout);
  EXPECT_EQ(ExitCodeOf(absl::CancelledError("")), ExitCode::kInterrupted);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), ExitCode::kOk);
}

class TableTest : public ::testing::Test {
 protected:
  TableTest() { setlocale(LC_CTYPE, "C.UTF-8"); }
};

TEST_F(TableTest, FitsTheTerminalAndCutsNothingElsewhere) {
  Table table({{.title = "NAME"},
               {.title = "STEP", .right = true},
               {.title = "HIDDEN", .wide_only = true},
               {.title = "REASON", .shrinks = true}});
  table.AddRow({"唐诗-26m", "7", "x", std::string(200, 'r')});
  table.AddRow({"b", "12345", "y", "short"});
  for (const int width : {20, 40, 80, 100}) {
    std::ostringstream out;
    table.Print(out, {.is_terminal = true, .width = width}, false);
    const std::vector<std::string> lines = absl::StrSplit(out.str(), '\n');
    for (const std::string& line : lines) {
      EXPECT_LE(DisplayWidth(line), width) << out.str();
    }
    EXPECT_THAT(out.str(), Not(HasSubstr("HIDDEN")));
  }
  std::ostringstream pipe;
  table.Print(pipe, {}, true);
  EXPECT_THAT(pipe.str(), AllOf(HasSubstr(std::string(200, 'r')), HasSubstr("HIDDEN")));
}

TEST_F(TableTest, WideCharactersTakeTwoColumns) {
  EXPECT_EQ(DisplayWidth("唐诗"), 4);
  EXPECT_EQ(FitWidth("唐诗三百首", 6), "唐诗…");
  EXPECT_EQ(FitWidth("abc", 3), "abc");
  EXPECT_EQ(FitWidth("abcd", 3), "ab…");
}

TEST_F(TableTest, ControlCharactersNeverReachTheTerminal) {
  EXPECT_EQ(EscapeControls("a\x1b[2Jb\nc\td"), "a\\x1b[2Jb\nc\td");
  EXPECT_EQ(EscapeControls("\xc2\x9b"
                           "2J"),
            "\\x9b2J")
      << "the one-character CSI";
  EXPECT_EQ(EscapeControls("唐"), "唐");
}

TEST(Format, ValuesReadWell) {
  EXPECT_EQ(Grouped(1234567), "1,234,567");
  EXPECT_EQ(Grouped(-1234), "-1,234");
  EXPECT_EQ(Grouped(123), "123");
  EXPECT_EQ(Bytes(12), "12 B");
  EXPECT_EQ(Bytes(3 << 20), "3.0 MiB");
  EXPECT_EQ(ShortDuration(absl::Milliseconds(8)), "8ms");
  EXPECT_EQ(ShortDuration(absl::Seconds(192)), "3m12s");
  EXPECT_EQ(ShortDuration(absl::Hours(50)), "2d2h");
  EXPECT_EQ(ShortDuration(absl::InfiniteDuration()), "-");
}

TEST(Progress, OnAPipeOneLineEveryLogIntervalInTheLookPeopleKnow) {
  std::ostringstream out;
  ProgressView view(out, {}, false);
  view.OnJob(RunningJob("tang"));
  for (int step = 1; step <= 25; ++step) view.OnStep(StepRecord(step, 25));
  view.Finish();
  const std::vector<std::string> lines = absl::StrSplit(out.str(), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 5u) << out.str();
  EXPECT_EQ(lines[0], "tang RUNNING: 2 devices");
  EXPECT_THAT(lines[1], HasSubstr("(1/25)"));
  EXPECT_EQ(lines[2],
            "Epoch:[1/1](10/25) loss:7.550000 lr:0.000500000000 epoch_Time:0.1min: tokens/s:8123 "
            "ranks:2 sequences:8+8");
  EXPECT_THAT(lines[3], HasSubstr("(20/25)"));
  EXPECT_THAT(lines[4], HasSubstr("(25/25)")) << "the last step is always shown";
}

TEST(Progress, ALineShowsWhatOnlySomeJobsHave) {
  v1::ProgressRecord record = StepRecord(10, 25);
  record.set_validation_loss(7.25);
  record.set_loss_scale(32768);
  record.set_skipped_steps(3);
  EXPECT_THAT(ProgressView::LogLine(RunningJob("tang").spec(), record, absl::ZeroDuration()),
              HasSubstr("ranks:2 sequences:8+8 validation:7.250000 scale:32768 skipped:3"));
}

TEST(Progress, OnATerminalOneLineIsRedrawnWithinItsWidth) {
  std::ostringstream out;
  ProgressView view(out, {.is_terminal = true, .width = 70, .color = true}, false);
  view.OnJob(RunningJob("tang"));
  for (int step = 1; step <= 3; ++step) view.OnStep(StepRecord(step, 2000));
  view.Finish();
  const std::string drawn = out.str();
  EXPECT_EQ(std::count(drawn.begin(), drawn.end(), '\n'), 2) << drawn;
  const std::vector<std::string> parts = absl::StrSplit(drawn, absl::ByAnyChar("\r\n"));
  for (const std::string& part : parts) {
    EXPECT_LT(DisplayWidth(std::string(absl::StripPrefix(part, "\x1b[K"))), 70) << part;
  }
  EXPECT_THAT(drawn, HasSubstr("3/2,000  loss 7.62"));
}

TEST(Progress, BarLineShowsEverythingWhereThereIsRoomAndTheImportantWhereNot) {
  const v1::Job job = RunningJob("tang");
  const std::string full = ProgressView::BarLine(job, StepRecord(500, 2000), absl::Seconds(90), 0);
  for (const char* part : {"tang", "25%", "500/2,000", "loss 2.65", "1m30s left", "8,123 tok/s",
                           "lr 5.00e-04", "2 ranks"}) {
    EXPECT_THAT(full, HasSubstr(part));
  }
  for (const int width : {10, 30, 50, 80, 120}) {
    const std::string line =
        ProgressView::BarLine(job, StepRecord(500, 2000), absl::Seconds(90), width);
    EXPECT_LE(DisplayWidth(line), width) << line;
    EXPECT_THAT(line, HasSubstr("25%"));
  }
}

TEST(Progress, AJobsOwnProgressDoesNotReplaceAStepsRecord) {
  std::ostringstream out;
  ProgressView view(out, {}, false);
  v1::Job job = RunningJob("tang");
  view.OnStep(StepRecord(10, 20));
  view.UseJobProgress();
  job.mutable_progress()->set_step(10);
  job.mutable_progress()->set_total_steps(20);
  view.OnJob(job);
  job.mutable_progress()->set_step(20);
  view.OnJob(job);
  EXPECT_THAT(out.str(), AllOf(HasSubstr("(10/20)"), HasSubstr("(20/20)")));
  EXPECT_EQ(out.str().find("(10/20)"), out.str().rfind("(10/20)")) << "each step once";
}

TEST(SpeedNote, TakesTheServersTimingsOfTheTokensAfterTheFirst) {
  v1::GenerationFinished finished;
  finished.set_reason(v1::FINISH_REASON_LENGTH);
  finished.mutable_usage()->set_output_tokens(31);
  finished.mutable_timings()->mutable_time_to_first_token()->set_seconds(9);
  finished.mutable_timings()->mutable_total()->set_seconds(10);
  EXPECT_EQ(SpeedNote(finished), "length, 31 tokens, 30.0 tokens/s, first after 9.0s");
  // One token in a moment is no speed.
  finished.mutable_usage()->set_output_tokens(1);
  finished.mutable_timings()->mutable_time_to_first_token()->Clear();
  finished.mutable_timings()->mutable_time_to_first_token()->set_nanos(130'000);
  finished.mutable_timings()->mutable_total()->Clear();
  finished.mutable_timings()->mutable_total()->set_nanos(133'000);
  EXPECT_THAT(SpeedNote(finished), AllOf(HasSubstr("1 token,"), Not(HasSubstr("tokens/s"))));
}

}  // namespace
}  // namespace mindforge::cli
