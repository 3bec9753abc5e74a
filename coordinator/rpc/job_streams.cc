#include "coordinator/rpc/job_streams.h"

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "common/server_stream.h"
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

// A stream of a job: looks, sends what it found, looks again when woken.
template <typename Message>
class JobStream : public ServerStream<Message> {
 public:
  JobStream(Core& core, OpenStreams& streams, grpc::CallbackServerContext* context,
            Source<Message> source)
      : ServerStream<Message>(streams, context), core_(core), source_(std::move(source)) {}

  void Start(const std::string& name_or_id) {
    this->Open();
    auto self = Self();
    core_.View([self, name_or_id](const sched::State& state, const sched::Now&) -> Core::Reply {
      const sched::Job* job = sched::FindJob(state, name_or_id);
      if (job == nullptr) return [=] { self->End(JobNotFound(name_or_id)); };
      return [self, id = job->id] { self->Follow(id); };
    });
  }

  void Drain() override {
    this->End(Error(absl::StatusCode::kUnavailable, "DRAINING",
                    "the coordinator is stopping: call again when it is back"));
  }

 private:
  std::shared_ptr<JobStream> Self() {
    return std::static_pointer_cast<JobStream>(this->shared_from_this());
  }

  static Found<Message> Busy() {
    Found<Message> found;
    found.end = true;
    found.status = StoreReadsBusy();
    return found;
  }

  void OnSent() override {
    {
      MutexLock lock(mutex_);
      sending_ = false;
    }
    Proceed();
  }
  void OnGone() override { Forget(); }
  void OnClosed() override { Forget(); }

  // Nobody reads any more: what is left goes, and nothing wakes the stream again.
  void Forget() {
    std::unique_ptr<Subscription> subscription;
    MutexLock lock(mutex_);
    over_ = true;
    queue_.clear();
    subscription = std::move(subscription_);
  }

  void Follow(const JobId& id) {
    const std::weak_ptr<JobStream> weak = Self();
    auto subscription = core_.Watch(id, [weak] {
      if (auto self = weak.lock()) self->Wake();
    });
    if (subscription == nullptr) {
      this->End(Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_STREAMS",
                      "too many calls follow jobs already: try again later"));
      return;
    }
    {
      MutexLock lock(mutex_);
      job_ = id;
      if (!over_) subscription_.swap(subscription);
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

  // Does the next thing there is to do, if none is being done: send, end, or look.
  void Proceed() {
    std::optional<Message> message;
    std::optional<absl::Status> end;
    JobId look_at;
    {
      MutexLock lock(mutex_);
      if (sending_ || over_) return;
      if (!queue_.empty()) {
        sending_ = true;
        message = std::move(queue_.front());
        queue_.pop_front();
      } else if (end_) {
        over_ = true;
        end = end_;
      } else if (looking_ || !news_ || job_.empty()) {
        return;
      } else {
        looking_ = true;
        news_ = false;
        look_at = job_;
      }
    }
    if (message) return this->Send(*std::move(message));
    if (end) return this->End(*end);
    LookAt(look_at);
  }

  void LookAt(const JobId& id) {
    auto self = Self();
    core_.View([self, id](const sched::State& state, const sched::Now&) -> Core::Reply {
      const auto job = state.jobs.find(id);
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
      if (over_) return;
      queue_ = std::move(found.messages);
      // A full read may have left some behind.
      if (static_cast<int>(queue_.size()) >= kRowsAtOnce) {
        news_ = true;
      } else if (found.end) {
        end_ = found.status;
      }
    }
    Proceed();
  }

  Core& core_;
  const Source<Message> source_;
  Mutex mutex_;
  JobId job_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Subscription> subscription_ ABSL_GUARDED_BY(mutex_);
  std::deque<Message> queue_ ABSL_GUARDED_BY(mutex_);
  bool news_ ABSL_GUARDED_BY(mutex_) = false;
  bool looking_ ABSL_GUARDED_BY(mutex_) = false;
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;                // nothing is sent any more
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // how to end, once the queue is empty
};

template <typename Message>
grpc::ServerWriteReactor<Message>* Begin(Core& core, OpenStreams& streams,
                                         grpc::CallbackServerContext* context,
                                         const std::string& job, Source<Message> source) {
  auto stream = std::make_shared<JobStream<Message>>(core, streams, context, std::move(source));
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

grpc::ServerWriteReactor<v1::WatchJobResponse>* StartWatch(Core& core, OpenStreams& streams,
                                                           grpc::CallbackServerContext* context,
                                                           const v1::WatchJobRequest& request) {
  using Message = v1::WatchJobResponse;
  // Only one look runs at a time, so the source needs no lock of its own.
  auto last = std::make_shared<int64_t>(request.from_revision());
  return Begin<Message>(
      core, streams, context, request.job(),
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
    Core& core, OpenStreams& streams, grpc::CallbackServerContext* context,
    const v1::StreamJobLogsRequest& request) {
  using Message = v1::StreamJobLogsResponse;
  auto after = std::make_shared<int64_t>(request.after());
  const std::optional<int> rank =
      request.has_rank() ? std::optional<int>(request.rank()) : std::nullopt;
  const bool follow = request.follow();
  return Begin<Message>(
      core, streams, context, request.job(),
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
    Core& core, OpenStreams& streams, grpc::CallbackServerContext* context,
    const v1::StreamJobMetricsRequest& request) {
  using Message = v1::StreamJobMetricsResponse;
  auto after = std::make_shared<int64_t>(request.after_step());
  const bool follow = request.follow();
  return Begin<Message>(
      core, streams, context, request.job(),
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
