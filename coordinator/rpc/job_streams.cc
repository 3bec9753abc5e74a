#include "coordinator/rpc/job_streams.h"

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/requests.h"

namespace mindforge {
namespace {

constexpr int kRowsAtOnce = 256;

// What a stream finds when it looks: messages to send, and whether anything can follow.
template <typename Message>
struct Found {
  std::deque<Message> messages;
  bool end = false;  // nothing follows: the stream ends with `status`
  absl::Status status;
};

// Makes the next messages. `job` is null when it is gone. Runs under the shell's lock (be quick)
// and returns what is to be done without it, where the store may be read.
template <typename Message>
using Source =
    std::function<std::function<Found<Message>()>(const sched::State&, const sched::Job* job)>;

// A stream of a job: looks, sends what it found, looks again when woken. gRPC's side keeps `self_`
// until OnDone.
template <typename Message>
class JobStream : public grpc::ServerWriteReactor<Message>,
                  public std::enable_shared_from_this<JobStream<Message>> {
 public:
  JobStream(Core& core, StreamSet& streams, Source<Message> source)
      : core_(core), streams_(streams), source_(std::move(source)) {}

  void Start(const std::string& name_or_id) {
    self_ = this->shared_from_this();
    const std::weak_ptr<JobStream> weak = self_;
    const int64_t key = streams_.Add([weak] {
      if (auto self = weak.lock()) self->End(Draining());
    });
    {
      MutexLock lock(mutex_);
      stream_key_ = key;
    }
    auto self = this->shared_from_this();
    core_.View([self, name_or_id](const sched::State& state, const sched::Now&) -> Core::Reply {
      const sched::Job* job = sched::FindJob(state, name_or_id);
      if (job == nullptr) return [=] { self->End(JobNotFound(name_or_id)); };
      return [self, id = job->id] { self->Follow(id); };
    });
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the caller went away"));
    {
      MutexLock lock(mutex_);
      writing_ = false;
    }
    Proceed();
  }
  void OnCancel() override { End(absl::CancelledError("the caller went away")); }
  void OnDone() override {
    streams_.Remove([this] {
      MutexLock lock(mutex_);
      return stream_key_;
    }());
    std::unique_ptr<Subscription> subscription;
    {
      MutexLock lock(mutex_);
      subscription = std::move(subscription_);
    }
    subscription.reset();
    std::shared_ptr<JobStream> self = std::move(self_);  // the last reference may be this one
  }

 private:
  static absl::Status Draining() {
    return Error(absl::StatusCode::kUnavailable, "DRAINING",
                 "the coordinator is stopping: call again when it is back");
  }

  static Found<Message> Busy() {
    Found<Message> found;
    found.end = true;
    found.status = StoreReadsBusy();
    return found;
  }

  void Follow(const JobId& id) {
    const std::weak_ptr<JobStream> weak = this->weak_from_this();
    auto subscription = core_.Watch(id, [weak] {
      if (auto self = weak.lock()) self->Wake();
    });
    if (subscription == nullptr) {
      return End(Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_STREAMS",
                       "too many calls follow jobs already: try again later"));
    }
    {
      MutexLock lock(mutex_);
      job_ = id;
      subscription_ = std::move(subscription);
    }
    Wake();
  }

  // Something may be new: look, now or when the present look is done.
  void Wake() {
    {
      MutexLock lock(mutex_);
      news_ = true;
    }
    Proceed();
  }

  void End(const absl::Status& status) {
    {
      MutexLock lock(mutex_);
      if (!end_) end_ = status;
      queue_.clear();
    }
    Proceed();
  }

  // Does the next thing there is to do, if none is being done: write, finish, or look. gRPC may
  // call back from within StartWrite and Finish, so both run without the lock.
  void Proceed() {
    std::optional<absl::Status> finish;
    JobId look_at;
    {
      MutexLock lock(mutex_);
      if (writing_ || finished_) return;
      if (!queue_.empty()) {
        writing_ = true;
        message_ = std::move(queue_.front());
        queue_.pop_front();
      } else if (end_) {
        finished_ = true;
        finish = end_;
      } else if (looking_ || !news_ || job_.empty()) {
        return;
      } else {
        looking_ = true;
        news_ = false;
        look_at = job_;
      }
    }
    if (finish) return this->Finish(ToGrpcStatus(*finish));
    if (look_at.empty()) return this->StartWrite(&message_);
    auto self = this->shared_from_this();
    core_.View([self, look_at](const sched::State& state, const sched::Now&) -> Core::Reply {
      const auto job = state.jobs.find(look_at);
      auto read = self->source_(state, job == state.jobs.end() ? nullptr : &job->second);
      return [self, read = std::move(read)] {
        if (self->core_.Read([self, read] { self->Take(read()); })) return;
        self->Take(Busy());
      };
    });
  }

  void Take(Found<Message> found) {
    {
      MutexLock lock(mutex_);
      looking_ = false;
      if (!end_) {
        queue_ = std::move(found.messages);
        // A full read may have left some behind.
        if (static_cast<int>(queue_.size()) >= kRowsAtOnce) {
          news_ = true;
        } else if (found.end) {
          end_ = found.status;
        }
      }
    }
    Proceed();
  }

  Core& core_;
  StreamSet& streams_;
  const Source<Message> source_;
  std::shared_ptr<JobStream> self_;
  Mutex mutex_;
  int64_t stream_key_ ABSL_GUARDED_BY(mutex_) = 0;
  JobId job_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Subscription> subscription_ ABSL_GUARDED_BY(mutex_);
  std::deque<Message> queue_ ABSL_GUARDED_BY(mutex_);
  Message message_;  // being written
  bool news_ ABSL_GUARDED_BY(mutex_) = false;
  bool looking_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // how to end, once the queue is empty
};

template <typename Message>
grpc::ServerWriteReactor<Message>* Begin(Core& core, StreamSet& streams, const std::string& job,
                                         Source<Message> source) {
  auto stream = std::make_shared<JobStream<Message>>(core, streams, std::move(source));
  stream->Start(job);
  return stream.get();
}

template <typename Message>
Found<Message> Gone() {
  Found<Message> found;
  found.end = true;
  found.status = Error(absl::StatusCode::kNotFound, "JOB_DELETED", "the job was deleted");
  return found;
}

}  // namespace

int64_t StreamSet::Add(std::function<void()> end) {
  {
    MutexLock lock(mutex_);
    if (!shut_down_) {
      ends_[next_] = std::move(end);
      return next_++;
    }
  }
  end();
  return 0;
}

void StreamSet::Remove(int64_t key) {
  MutexLock lock(mutex_);
  ends_.erase(key);
}

void StreamSet::Shutdown() {
  std::map<int64_t, std::function<void()>> ends;
  {
    MutexLock lock(mutex_);
    shut_down_ = true;
    ends = ends_;
  }
  for (const auto& [key, end] : ends) end();
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* StartWatch(Core& core, StreamSet& streams,
                                                           const v1::WatchJobRequest& request) {
  using Message = v1::WatchJobResponse;
  // Only one look runs at a time, so the source needs no lock of its own.
  auto last = std::make_shared<int64_t>(request.from_revision());
  return Begin<Message>(
      core, streams, request.job(),
      [last](const sched::State& state, const sched::Job* job) -> std::function<Found<Message>()> {
        if (job == nullptr) return Gone<Message>;
        Found<Message> found;
        found.end = job->final();
        // A revision beyond ours was never durable: the caller starts over.
        if (job->revision != *last) {
          *last = job->revision;
          FillJob(state, *job, found.messages.emplace_back().mutable_job());
        }
        return [found] { return found; };
      });
}

grpc::ServerWriteReactor<v1::StreamJobLogsResponse>* StartLogs(
    Core& core, StreamSet& streams, const v1::StreamJobLogsRequest& request) {
  using Message = v1::StreamJobLogsResponse;
  auto after = std::make_shared<int64_t>(request.after());
  const std::optional<int> rank =
      request.has_rank() ? std::optional<int>(request.rank()) : std::nullopt;
  const bool follow = request.follow();
  return Begin<Message>(
      core, streams, request.job(),
      [=, &core](const sched::State&, const sched::Job* job) -> std::function<Found<Message>()> {
        if (job == nullptr) return Gone<Message>;
        return [=, &core, id = job->id, end = !follow || job->final()] {
          Found<Message> found;
          found.end = end;
          const auto lines = core.ReadLogs(id, *after, rank, kRowsAtOnce);
          if (!lines.ok()) return found.end = true, found.status = lines.status(), found;
          for (const StoredLog& line : *lines) {
            Message& message = found.messages.emplace_back();
            message.set_number(line.number);
            message.mutable_line()->ParseFromString(line.bytes);
            *after = line.number;
          }
          return found;
        };
      });
}

grpc::ServerWriteReactor<v1::StreamJobMetricsResponse>* StartMetrics(
    Core& core, StreamSet& streams, const v1::StreamJobMetricsRequest& request) {
  using Message = v1::StreamJobMetricsResponse;
  auto after = std::make_shared<int64_t>(request.after_step());
  const bool follow = request.follow();
  return Begin<Message>(
      core, streams, request.job(),
      [=, &core](const sched::State&, const sched::Job* job) -> std::function<Found<Message>()> {
        if (job == nullptr) return Gone<Message>;
        return [=, &core, id = job->id, end = !follow || job->final()] {
          Found<Message> found;
          found.end = end;
          const auto records = core.ReadProgress(id, *after, kRowsAtOnce);
          if (!records.ok()) return found.end = true, found.status = records.status(), found;
          for (const StoredProgress& record : *records) {
            found.messages.emplace_back().mutable_record()->ParseFromString(record.bytes);
            *after = record.step;
          }
          return found;
        };
      });
}

}  // namespace mindforge
