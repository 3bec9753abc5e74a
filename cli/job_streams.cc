// `mindforge job logs` and `metrics`.
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/rpc.h"
#include "cli/stream.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "mindforge/v1/job_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

struct StreamFlags {
  std::string job;
  bool follow = false;
  std::optional<int> rank;
  bool csv = false;
};

void PrintLogLine(Session& session, const v1::LogLine& line) {
  const Terminal& terminal = session.out_terminal();
  const std::string who = line.rank() < 0 ? "agent" : absl::StrCat("rank ", line.rank());
  Style style = Style::kPlain;
  std::string level = "INFO";
  if (line.level() == v1::LOG_LEVEL_WARNING) {
    level = "WARN";
    style = Style::kWarn;
  } else if (line.level() == v1::LOG_LEVEL_ERROR) {
    level = "ERROR";
    style = Style::kBad;
  }
  const std::string head =
      absl::StrCat(Moment(line.time()), " g", line.generation(), " ", who, " ");
  session.out() << Styled(terminal, Style::kDim, head) << Styled(terminal, style, level) << " "
                << EscapeControls(line.text()) << std::endl;
}

StreamCall FollowingCall(Session& session, const std::string& what, bool follow) {
  return {.what = what,
          .reconnect = follow,
          .resumes = true,
          .say = [&session](const std::string& text) { session.Note(text); }};
}

// What the job is asked for by: when its stream may be opened again, the id, since the name may be
// another job's by then.
absl::StatusOr<std::string> JobToRead(Session& session, v1::JobService::Stub& stub,
                                      const std::string& what, const StreamFlags& flags) {
  if (!flags.follow) return flags.job;
  v1::GetJobRequest request;
  request.set_job(flags.job);
  ASSIGN_OR_RETURN(const v1::GetJobResponse response,
                   Call(session, {.what = what}, stub, &v1::JobService::Stub::GetJob, request));
  return response.job().id();
}

absl::StatusOr<ExitCode> Logs(Session& session, const StreamFlags& flags) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = v1::JobService::NewStub(channel);
  const std::string what = absl::StrCat("read the log of job '", flags.job, "'");
  v1::StreamJobLogsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_job(), JobToRead(session, *stub, what, flags));
  request.set_follow(flags.follow);
  if (flags.rank.has_value()) request.set_rank(*flags.rank);
  RETURN_IF_ERROR(CheckText(request));
  RETURN_IF_ERROR(ReadStream<v1::StreamJobLogsResponse>(
      session, FollowingCall(session, what, flags.follow),
      [&](grpc::ClientContext* context) { return stub->StreamJobLogs(context, request); },
      [&](const v1::StreamJobLogsResponse& response) {
        request.set_after(response.number());
        if (session.structured()) {
          session.PrintLine(response);
        } else {
          PrintLogLine(session, response.line());
        }
        return static_cast<bool>(session.out());
      }));
  return ExitCode::kOk;
}

void PrintRecordHead(Session& session, bool csv) {
  if (csv) {
    session.out() << "step,total_steps,epoch,generation,world_size,loss,learning_rate,"
                     "gradient_norm,tokens,tokens_per_second,step_seconds,finished_at,"
                     "sequences_by_rank,validation_loss,loss_scale,skipped_steps,skipped\n";
  } else {
    session.out() << Styled(session.out_terminal(), Style::kBold,
                            absl::StrFormat("%10s %10s %12s %10s %10s %6s %9s", "STEP", "LOSS",
                                            "LR", "GRADNORM", "TOKENS/S", "RANKS", "TIME"))
                  << "\n";
  }
}

void PrintRecord(Session& session, const v1::ProgressRecord& record, bool csv) {
  if (csv) {
    session.out() << absl::StrFormat(
        "%d,%d,%.9g,%d,%d,%.9g,%.9g,%.9g,%d,%.9g,%.9g,%s,%s,%s,%s,%d,%d\n", record.step(),
        record.total_steps(), record.epoch(), record.generation(), record.world_size(),
        record.loss(), record.learning_rate(), record.gradient_norm(), record.tokens(),
        record.tokens_per_second(), record.step_seconds(),
        absl::FormatTime(absl::RFC3339_full, ToTime(record.finished_at()), absl::UTCTimeZone()),
        absl::StrJoin(record.sequences_by_rank(), ";"),
        record.has_validation_loss() ? absl::StrFormat("%.9g", record.validation_loss()) : "",
        record.has_loss_scale() ? absl::StrFormat("%.9g", record.loss_scale()) : "",
        record.skipped_steps(), record.skipped() ? 1 : 0);
  } else {
    session.out() << absl::StrFormat("%10d %10.6f %12.6e %10.4f %10.0f %6d %9s\n", record.step(),
                                     record.loss(), record.learning_rate(), record.gradient_norm(),
                                     record.tokens_per_second(), record.world_size(),
                                     ShortDuration(absl::Seconds(record.step_seconds())));
  }
}

absl::StatusOr<ExitCode> Metrics(Session& session, const StreamFlags& flags) {
  if (flags.csv && session.structured()) {
    return InvalidArgument("--csv", "is another format than -o json or yaml; give one of them");
  }
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = v1::JobService::NewStub(channel);
  const std::string what = absl::StrCat("read the metrics of job '", flags.job, "'");
  v1::StreamJobMetricsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_job(), JobToRead(session, *stub, what, flags));
  request.set_follow(flags.follow);
  bool headed = session.structured();
  RETURN_IF_ERROR(CheckText(request));
  RETURN_IF_ERROR(ReadStream<v1::StreamJobMetricsResponse>(
      session, FollowingCall(session, what, flags.follow),
      [&](grpc::ClientContext* context) { return stub->StreamJobMetrics(context, request); },
      [&](const v1::StreamJobMetricsResponse& response) {
        request.set_after_step(response.record().step());
        if (!headed) PrintRecordHead(session, flags.csv);
        headed = true;
        if (session.structured()) {
          session.PrintLine(response.record());
        } else {
          PrintRecord(session, response.record(), flags.csv);
        }
        if (flags.follow) session.out() << std::flush;
        return static_cast<bool>(session.out());
      }));
  if (!headed && flags.csv) PrintRecordHead(session, true);
  if (!headed && !flags.csv) session.Note("no step is finished yet");
  return ExitCode::kOk;
}

}  // namespace

void AddJobStreamCommands(Registry& registry, CLI::App& job) {
  const auto flags = std::make_shared<StreamFlags>();
  CLI::App* logs = AddCommand(registry, job, "logs", "Print what trainers and agents said",
                              [flags](Session& session) { return Logs(session, *flags); });
  logs->add_option("JOB", flags->job, "Name or id")->required();
  logs->add_flag("-f,--follow", flags->follow, "Go on until the job ends");
  logs->add_option("--rank", flags->rank, "Only this rank's lines; -1: agents")->type_name("N");

  CLI::App* metrics = AddCommand(registry, job, "metrics", "Print loss, speed and more by step",
                                 [flags](Session& session) { return Metrics(session, *flags); });
  metrics->add_option("JOB", flags->job, "Name or id")->required();
  metrics->add_flag("-f,--follow", flags->follow, "Go on until the job ends");
  metrics->add_flag("--csv", flags->csv, "Comma-separated values with a header line");
}

}  // namespace mindforge::cli
