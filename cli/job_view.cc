#include "cli/job_view.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "cli/format.h"
#include "cli/key_values.h"
#include "cli/table.h"
#include "common/config.h"

namespace mindforge::cli {
namespace {

// A list is for looking over: a reason in it is one line of at most so many columns, also where
// there is no terminal to fit. `job get` has the whole of it.
constexpr int kReasonWidth = 160;

std::string OneLine(const std::string& reason) {
  return FitWidth(absl::StrReplaceAll(reason, {{"\n", " "}}), kReasonWidth);
}

std::string Steps(const v1::JobProgress& progress) {
  if (progress.total_steps() == 0) return progress.step() > 0 ? Grouped(progress.step()) : "-";
  return absl::StrCat(Grouped(progress.step()), "/", Grouped(progress.total_steps()));
}

std::string Ranks(const v1::Job& job) {
  std::string text;
  for (const v1::JobMember& member : job.members()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", "rank ", member.rank(), " on ",
                    member.worker(), " ", member.device());
  }
  return text;
}

std::string Progress(const v1::JobProgress& progress) {
  if (progress.step() == 0) return "";
  std::string text = absl::StrCat("step ", Steps(progress), ", loss ", Loss(progress.loss()));
  if (progress.first_loss() > 0) absl::StrAppend(&text, " from ", Loss(progress.first_loss()));
  absl::StrAppend(&text, absl::StrFormat(", lr %.3e, ", progress.learning_rate()),
                  Grouped(std::llround(progress.tokens_per_second())), " tokens/s");
  if (progress.tokens() > 0) absl::StrAppend(&text, ", ", Grouped(progress.tokens()), " tokens");
  const absl::Duration left = ToDuration(progress.time_left());
  if (left > absl::ZeroDuration()) absl::StrAppend(&text, ", ", ShortDuration(left), " left");
  return text;
}

// Steps that changed nothing, and float16's loss scale: "3 steps, loss scale 8192".
std::string Skipped(const v1::JobProgress& progress) {
  std::string text;
  if (progress.skipped_steps() > 0) {
    text = absl::StrCat(Grouped(progress.skipped_steps()),
                        progress.skipped_steps() == 1 ? " step" : " steps");
  }
  if (progress.has_loss_scale()) {
    absl::StrAppend(&text, text.empty() ? "no step, " : ", ", "loss scale ", progress.loss_scale());
  }
  return text;
}

}  // namespace

namespace {

void PrintTable(Session& session, const std::vector<v1::Job>& jobs, bool whole_reasons) {
  if (session.options.output == OutputFormat::kName) {
    for (const v1::Job& job : jobs) session.out() << EscapeControls(job.spec().name()) << "\n";
    return;
  }
  Table table({{.title = "NAME"},
               {.title = "ID", .wide_only = true},
               {.title = "STATE"},
               {.title = "STEP", .right = true},
               {.title = "LOSS", .right = true},
               {.title = "TOKENS/S", .right = true},
               {.title = "RANKS", .right = true},
               {.title = "AGE", .right = true},
               {.title = "PRIORITY", .right = true, .wide_only = true},
               {.title = "GENERATION", .right = true, .wide_only = true},
               {.title = "CHECKPOINT", .right = true, .wide_only = true},
               {.title = "FAILURES", .right = true, .wide_only = true},
               {.title = "REASON", .shrinks = true}});
  for (const v1::Job& job : jobs) {
    const v1::JobProgress& progress = job.progress();
    const bool running = job.state() == v1::JOB_STATE_RUNNING;
    table.AddRow(
        {job.spec().name(), job.id(), StateCell(job.state()), Steps(progress),
         progress.step() > 0 ? Loss(progress.loss()) : "-",
         running ? Grouped(std::llround(progress.tokens_per_second())) : "-",
         job.members_size() > 0 ? absl::StrCat(job.members_size()) : "-", Age(job.submitted_at()),
         absl::StrCat(job.spec().priority()), absl::StrCat(job.generation()),
         job.last_checkpoint_step() >= 0 ? absl::StrCat(job.last_checkpoint_step()) : "-",
         absl::StrCat(job.failures()), whole_reasons ? job.reason() : OneLine(job.reason())});
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
}

}  // namespace

void PrintJobs(Session& session, const std::vector<v1::Job>& jobs) {
  PrintTable(session, jobs, /*whole_reasons=*/false);
}

void PrintJob(Session& session, const v1::Job& job) {
  if (session.structured()) {
    session.PrintMessage(job);
  } else {
    PrintTable(session, {job}, /*whole_reasons=*/true);
  }
}

void DescribeJob(Session& session, const v1::Job& job) {
  KeyValues lines;
  lines.Add("Name", job.spec().name());
  lines.Add("Id", job.id());
  lines.Add("State", StateName(job.state()));
  lines.Add("Reason", job.reason());
  if (!job.spec().recipe().empty()) {
    lines.Add("Recipe",
              absl::StrCat(job.spec().recipe(), " (the job file below is what it came to)"));
  }
  lines.Add("Progress", Progress(job.progress()));
  if (job.progress().has_validation_loss()) {
    lines.Add("Validation", absl::StrCat("loss ", Loss(job.progress().validation_loss())));
  }
  lines.Add("Skipped", Skipped(job.progress()));
  lines.Add("Ranks", Ranks(job));
  lines.Add("Generation", absl::StrCat(job.generation()));
  lines.Add("Failures",
            absl::StrCat(job.failures(), " of ", job.spec().max_failures(), " allowed"));
  lines.Add("Checkpoint", job.last_checkpoint_step() >= 0
                              ? absl::StrCat("step ", job.last_checkpoint_step())
                              : "none yet");
  if (job.checkpoint_failures() > 0) {
    lines.Add("Not written",
              absl::StrCat("the last ",
                           job.checkpoint_failures() == 1
                               ? "checkpoint"
                               : absl::StrCat(job.checkpoint_failures(), " checkpoints"),
                           ": ", job.checkpoint_error()));
  }
  lines.Add("Submitted", Moment(job.submitted_at()));
  lines.Add("Started", Moment(job.started_at()));
  lines.Add("Finished", Moment(job.finished_at()));
  lines.Add("Numerics", job.device_signature());
  lines.Add("Dataset", job.dataset_digest());
  if (job.skipped_lines() > 0) {
    lines.Add("Malformed", absl::StrCat(Grouped(job.skipped_lines()), " lines skipped"));
  }
  lines.Print(session.out());
  session.out() << "Job file:\n";
  const std::string yaml = ProtoToYaml(job.spec());
  const std::vector<std::string> yaml_lines = absl::StrSplit(yaml, '\n', absl::SkipEmpty());
  for (const std::string& line : yaml_lines) {
    session.out() << "  " << EscapeControls(line) << "\n";
  }
}

void PrintEvents(Session& session, const v1::GetJobResponse& response) {
  const v1::Job& job = response.job();
  session.out() << EscapeControls(job.spec().name()) << " is " << StateName(job.state())
                << (job.reason().empty() ? "" : ": ") << EscapeControls(job.reason()) << "\n";
  if (response.events().empty()) return;
  session.out() << "\n";
  Table table({{.title = "WHEN"},
               {.title = "STATE"},
               {.title = "GENERATION", .right = true},
               {.title = "REASON", .shrinks = true}});
  for (const v1::JobEvent& event : response.events()) {
    const absl::Time when = absl::FromUnixMillis(event.unix_millis());
    table.AddRow({absl::FormatTime("%Y-%m-%d %H:%M:%E3S", when, absl::LocalTimeZone()),
                  StateCell(event.state()), absl::StrCat(event.generation()), event.reason()});
  }
  // Reasons are what was asked for: they are never cut.
  table.Print(session.out(), Terminal{.color = session.out_terminal().color}, session.wide());
}

}  // namespace mindforge::cli
