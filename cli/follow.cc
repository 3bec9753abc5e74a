#include "cli/follow.h"

#include <algorithm>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "cli/format.h"
#include "cli/progress.h"
#include "cli/stream.h"
#include "common/mutex.h"
#include "common/request_text.h"
#include "common/status_macros.h"

namespace mindforge::cli {
namespace {

// After the job ended, how long its last steps' records may take to arrive.
constexpr absl::Duration kLastRecords = absl::Seconds(2);
constexpr absl::Duration kRecordsPause = absl::Milliseconds(300);

// Errors that another try does not cure; whatever else ends a stream is a server on its way out.
bool WillNeverWork(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNIMPLEMENTED:
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::UNAUTHENTICATED:
      return true;
    default:
      return false;
  }
}

// Two streams into one view: the job's states on the caller's thread, its steps on a thread of
// their own, because either may be silent for long.
class Follower {
 public:
  Follower(Session& session, v1::JobService::Stub& stub, const FollowOptions& options,
           std::ostream& out, const Terminal& terminal)
      : session_(session),
        stub_(stub),
        options_(options),
        structured_(session.structured() && !options.quiet && !options.progress_only),
        talks_in_view_(terminal.is_terminal && !options.quiet && !structured_),
        job_(options.job),
        view_(out, terminal, options.quiet || structured_) {}

  ~Follower() { StopRecords(absl::ZeroDuration()); }

  absl::StatusOr<v1::Job> Run() {
    RETURN_IF_ERROR(CheckText("job", job_));
    v1::WatchJobRequest request;
    StreamCall call = {.what = absl::StrCat("watch job '", options_.shown_name, "'"),
                       .reconnect = true,
                       .resumes = true,
                       .until_told = true,
                       .connected = options_.connected,
                       .say = [this](const std::string& text) { Say(text); }};
    const absl::Status status = ReadStream<v1::WatchJobResponse>(
        session_, call,
        [&](grpc::ClientContext* context) {
          request.set_job(job_);
          return stub_.WatchJob(context, request);
        },
        [this](const v1::WatchJobResponse& response) { return OnJob(response.job()); });
    if (!status.ok()) {
      StopRecords(absl::ZeroDuration());
      MutexLock lock(mutex_);
      view_.Finish();
      return status;
    }
    StopRecords(kLastRecords);
    MutexLock lock(mutex_);
    view_.OnJob(*final_);
    view_.Finish();
    return *final_;
  }

 private:
  // False once the job has ended.
  bool OnJob(const v1::Job& job) {
    job_ = job.id();  // the name may be another job's by the time of the next call
    if (structured_) session_.PrintLine(job);
    {
      MutexLock lock(mutex_);
      if (IsFinal(job.state())) {
        final_ = job;
        changed_.SignalAll();
        return false;
      }
      view_.OnJob(job);
    }
    if (!records_.joinable() && !options_.quiet && !structured_) {
      records_ = std::thread(
          [this, id = job.id(), after = std::max<int64_t>(0, job.progress().step() - 1)] {
            ReadRecords(id, after);
          });
    }
    return true;
  }

  // Reads steps until the job has ended and all its records were read, or told to stop. Where the
  // server has none, the job's own progress has to do.
  void ReadRecords(const std::string& job_id, int64_t after) {
    while (true) {
      const bool last_pass = Ended();
      ScopedCall scoped(session_);
      scoped.context().set_deadline(absl::ToChronoTime(CallDeadline(session_, kStreamTimeout)));
      if (!SetRecordsCall(&scoped.context())) return;
      v1::StreamJobMetricsRequest request;
      request.set_job(job_id);
      request.set_follow(!last_pass);
      request.set_after_step(after);
      const auto reader = stub_.StreamJobMetrics(&scoped.context(), request);
      v1::StreamJobMetricsResponse response;
      while (reader->Read(&response)) {
        after = std::max(after, response.record().step());
        MutexLock lock(mutex_);
        view_.OnStep(response.record());
      }
      const grpc::Status status = reader->Finish();
      SetRecordsCall(nullptr);
      if (last_pass || WillNeverWork(status)) break;
      MutexLock lock(mutex_);
      changed_.WaitFor(mutex_, kRecordsPause, [this] {
        mutex_.AssertHeld();
        return stopping_ || final_.has_value();
      });
      if (stopping_) break;
    }
    MutexLock lock(mutex_);
    view_.UseJobProgress();  // what is still to come, if anything
    records_done_ = true;
    changed_.SignalAll();
  }

  bool Ended() {
    MutexLock lock(mutex_);
    return final_.has_value();
  }

  // False when told to stop: the call must not start.
  bool SetRecordsCall(grpc::ClientContext* context) {
    MutexLock lock(mutex_);
    records_call_ = stopping_ ? nullptr : context;
    if (stopping_) records_done_ = true;
    return !stopping_;
  }

  void StopRecords(absl::Duration patience) {
    if (!records_.joinable()) return;
    {
      MutexLock lock(mutex_);
      changed_.WaitFor(mutex_, patience, [this] {
        mutex_.AssertHeld();
        return records_done_;
      });
      stopping_ = true;
      if (records_call_ != nullptr) records_call_->TryCancel();
      changed_.SignalAll();
    }
    records_.join();
  }

  void Say(const std::string& text) {
    MutexLock lock(mutex_);
    if (talks_in_view_) {
      view_.Say(absl::StrCat("mindforge: ", text));  // it knows what is drawn on the line
    } else {
      session_.Note(text);
    }
  }

  Session& session_;
  v1::JobService::Stub& stub_;
  const FollowOptions options_;
  const bool structured_;
  const bool talks_in_view_;
  std::string job_;  // name or id that was given, then the id; of the caller's thread

  Mutex mutex_;
  CondVar changed_;
  ProgressView view_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::Job> final_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool records_done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* records_call_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread records_;
};

}  // namespace

absl::StatusOr<v1::Job> FollowJob(Session& session, v1::JobService::Stub& stub,
                                  const FollowOptions& options, std::ostream& out,
                                  const Terminal& terminal) {
  Follower follower(session, stub, options, out, terminal);
  absl::StatusOr<v1::Job> job = follower.Run();
  if (job.ok()) return job;
  const bool detached = job.status().code() == absl::StatusCode::kCancelled ||
                        job.status().code() == absl::StatusCode::kDeadlineExceeded;
  if (detached) {
    session.Note(absl::StrCat("detached; job '", options.shown_name,
                              "' goes on without you. Attach again with: mindforge job watch ",
                              options.shown_name, session.ServerFlag()));
  }
  return job;
}

ExitCode ExitCodeOfJob(v1::JobState state) {
  if (state == v1::JOB_STATE_SUCCEEDED) return ExitCode::kOk;
  return state == v1::JOB_STATE_CANCELLED ? ExitCode::kJobCancelled : ExitCode::kJobFailed;
}

}  // namespace mindforge::cli
