#include "worker/serve/generate_calls.h"

#include <utility>

#include "common/grpc_status.h"
#include "common/mutex.h"

namespace mindforge {
namespace {

absl::Status GoneBefore() { return absl::CancelledError("the caller cancelled"); }

// A call that reads a LiveRequest. Lives until gRPC is done with it: it holds itself. `Reactor` is
// gRPC's base for that kind of call.
template <typename Reactor>
class GenerationCall : public Reactor,
                       public std::enable_shared_from_this<GenerationCall<Reactor>> {
 public:
  // `prepare` is called on the pool's thread, unless the caller has gone by then. An error of
  // `admitted` ends the call at once.
  void Begin(const absl::Status& admitted, EncodePool& pool, size_t bytes,
             PrepareGeneration prepare) {
    {
      MutexLock lock(mutex_);
      self_ = this->shared_from_this();
    }
    absl::Status status = admitted;
    if (status.ok()) {
      status = pool.Run(bytes, [call = this->shared_from_this(), prepare = std::move(prepare)] {
        call->Start(call->cancelled() ? GoneBefore() : prepare());
      });
    }
    if (!status.ok()) End(status);
  }

  void OnCancel() override {
    std::shared_ptr<LiveRequest> generation;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      generation = generation_;
    }
    if (generation != nullptr) generation->Cancel();
  }

  void OnDone() override {
    std::shared_ptr<GenerationCall> self;
    std::shared_ptr<LiveRequest> generation;
    {
      MutexLock lock(mutex_);
      self = std::move(self_);
      generation = std::move(generation_);
    }
    if (generation != nullptr) generation->Detach();
  }

 protected:
  // Takes what there is to read; from the courier's thread or gRPC's.
  virtual void Pump() = 0;

  // Ends the call unless it has ended. Call without the mutex.
  void End(const absl::Status& status) {
    {
      MutexLock lock(mutex_);
      if (std::exchange(ended_, true)) return;
    }
    this->Finish(ToGrpcStatus(status));
  }

  Mutex mutex_;
  std::shared_ptr<LiveRequest> generation_ ABSL_GUARDED_BY(mutex_);  // null after OnDone
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

 private:
  bool cancelled() {
    MutexLock lock(mutex_);
    return cancelled_;
  }

  void Start(absl::StatusOr<std::shared_ptr<LiveRequest>> generation) {
    absl::Status status = generation.status();
    if (status.ok()) {
      MutexLock lock(mutex_);
      generation_ = *generation;
      if (cancelled_) status = GoneBefore();
    }
    if (status.ok()) {
      status = (*generation)->Start([call = this->shared_from_this()] { call->Pump(); });
    }
    if (!status.ok()) End(status);
  }

  std::shared_ptr<GenerationCall> self_ ABSL_GUARDED_BY(mutex_);
};

// Writes events as they come, one write at a time.
class Stream : public GenerationCall<grpc::ServerWriteReactor<v1::GenerateResponse>> {
 public:
  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
    }
    if (ok) {
      Pump();
    } else {
      // The caller is gone. What the engine still says about it is read by nobody.
      OnCancel();
      End(absl::CancelledError("the caller went away"));
    }
  }

 private:
  void Pump() override {
    absl::Status end;
    {
      MutexLock lock(mutex_);
      if (writing_ || ended_ || generation_ == nullptr) return;
      const LiveRequest::Read read = generation_->Next(&event_, &end);
      if (read == LiveRequest::Read::kNothingYet) return;
      writing_ = read == LiveRequest::Read::kEvent;
      // Once it is set no other thread comes this far; gRPC calls back on threads of its own, never
      // from within StartWrite.
      if (writing_) {
        StartWrite(&event_);
        return;
      }
    }
    End(end);
  }

  v1::GenerateResponse event_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
};

// Gathers all events into one response.
class Collector : public GenerationCall<grpc::ServerUnaryReactor> {
 public:
  explicit Collector(v1::GenerateUnaryResponse* response) : response_(response) {}

 private:
  void Pump() override {
    absl::Status end;
    {
      MutexLock lock(mutex_);
      if (ended_ || generation_ == nullptr) return;
      v1::GenerateResponse event;
      LiveRequest::Read read;
      while ((read = generation_->Next(&event, &end)) == LiveRequest::Read::kEvent) Take(event);
      if (read == LiveRequest::Read::kNothingYet) return;
    }
    End(end);
  }

  void Take(v1::GenerateResponse& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (event.has_started()) {
      response_->mutable_started()->Swap(event.mutable_started());
    } else if (event.has_delta()) {
      v1::GenerationResult* result = ResultOf(event.delta().index());
      result->mutable_text()->append(event.delta().text());
      result->mutable_token_ids()->MergeFrom(event.delta().token_ids());
      result->mutable_logprobs()->MergeFrom(event.delta().logprobs());
    } else if (event.has_finished()) {
      ResultOf(event.finished().index())->mutable_finished()->Swap(event.mutable_finished());
    }
  }

  v1::GenerationResult* ResultOf(int32_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (response_->results_size() <= index) {
      response_->add_results()->set_index(response_->results_size() - 1);
    }
    return response_->mutable_results(index);
  }

  v1::GenerateUnaryResponse* const response_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* StreamGeneration(const absl::Status& admitted,
                                                                 EncodePool& pool, size_t bytes,
                                                                 PrepareGeneration prepare) {
  auto stream = std::make_shared<Stream>();
  stream->Begin(admitted, pool, bytes, std::move(prepare));
  return stream.get();
}

grpc::ServerUnaryReactor* CollectGeneration(const absl::Status& admitted, EncodePool& pool,
                                            size_t bytes, PrepareGeneration prepare,
                                            v1::GenerateUnaryResponse* response) {
  auto collector = std::make_shared<Collector>(response);
  collector->Begin(admitted, pool, bytes, std::move(prepare));
  return collector.get();
}

}  // namespace mindforge
