#include "worker/serve/generate_calls.h"

#include <utility>

#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/server_stream.h"

namespace mindforge {
namespace {

// Sends events as they come, one at a time. Held while its request is prepared and submitted, which
// reads what the call owns.
class Stream : public ServerStream<v1::GenerateResponse> {
 public:
  using ServerStream::ServerStream;

  void Begin(const absl::Status& admitted, EncodePool& pool, size_t bytes,
             PrepareGeneration prepare) {
    Open();
    if (!admitted.ok()) return End(admitted);
    Hold();
    const absl::Status queued = pool.Run(bytes, [stream = Self(), prepare = std::move(prepare)] {
      stream->Start(prepare);
      stream->Release();
    });
    if (queued.ok()) return;
    End(queued);
    Release();
  }

  // A generation that is under way may end: the server's drain gives it the time.
  void Drain() override {}

 private:
  std::shared_ptr<Stream> Self() { return std::static_pointer_cast<Stream>(shared_from_this()); }

  void Start(const PrepareGeneration& prepare) {
    if (over()) return;
    const absl::StatusOr<std::shared_ptr<LiveRequest>> generation = prepare();
    if (!generation.ok()) return End(generation.status());
    {
      MutexLock lock(mutex_);
      if (over_) return;
      generation_ = *generation;
    }
    // From here on OnGone cancels it, whichever of the two comes first.
    const absl::Status started = (*generation)->Start([stream = Self()] { stream->SendNext(); });
    if (!started.ok()) End(started);
  }

  // From the courier's thread or gRPC's.
  void SendNext() {
    v1::GenerateResponse event;
    absl::Status end;
    LiveRequest::Read read;
    {
      MutexLock lock(mutex_);
      if (sending_ || over_) return;
      read = generation_->Next(&event, &end);
      sending_ = read == LiveRequest::Read::kEvent;
      over_ = read == LiveRequest::Read::kEnd;
    }
    if (read == LiveRequest::Read::kEvent) Send(std::move(event));
    if (read == LiveRequest::Read::kEnd) End(end);
  }

  void OnSent() override {
    {
      MutexLock lock(mutex_);
      sending_ = false;
    }
    SendNext();
  }

  void OnGone() override {
    std::shared_ptr<LiveRequest> generation;
    {
      MutexLock lock(mutex_);
      over_ = true;
      generation = generation_;
    }
    if (generation != nullptr) generation->Cancel();
  }

  // The generation's `ready` holds this stream, which holds the generation.
  void OnClosed() override {
    std::shared_ptr<LiveRequest> generation;
    {
      MutexLock lock(mutex_);
      over_ = true;
      generation = std::move(generation_);
    }
    if (generation != nullptr) generation->Detach();
  }

  bool over() {
    MutexLock lock(mutex_);
    return over_;
  }

  Mutex mutex_;
  std::shared_ptr<LiveRequest> generation_ ABSL_GUARDED_BY(mutex_);
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;  // nothing is sent any more
};

// Gathers all events into one response. Lives until gRPC is done with the call: it holds itself.
class Collector : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<Collector> {
 public:
  explicit Collector(v1::GenerateUnaryResponse* response) : response_(response) {}

  void Begin(const absl::Status& admitted, EncodePool& pool, size_t bytes,
             PrepareGeneration prepare) {
    {
      MutexLock lock(mutex_);
      self_ = shared_from_this();
    }
    absl::Status status = admitted;
    if (status.ok()) {
      status = pool.Run(bytes, [call = shared_from_this(), prepare = std::move(prepare)] {
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
    std::shared_ptr<Collector> self;
    std::shared_ptr<LiveRequest> generation;
    {
      MutexLock lock(mutex_);
      self = std::move(self_);
      generation = std::move(generation_);
    }
    if (generation != nullptr) generation->Detach();
  }

 private:
  static absl::Status GoneBefore() { return absl::CancelledError("the caller cancelled"); }

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
      status = (*generation)->Start([call = shared_from_this()] { call->TakeAll(); });
    }
    if (!status.ok()) End(status);
  }

  // Takes what there is to read; from the courier's thread.
  void TakeAll() {
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

  // Ends the call unless it has ended. Call without the mutex.
  void End(const absl::Status& status) {
    {
      MutexLock lock(mutex_);
      if (std::exchange(ended_, true)) return;
    }
    Finish(ToGrpcStatus(status));
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

  Mutex mutex_;
  v1::GenerateUnaryResponse* const response_ ABSL_PT_GUARDED_BY(mutex_);
  std::shared_ptr<Collector> self_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<LiveRequest> generation_ ABSL_GUARDED_BY(mutex_);  // null after OnDone
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* StreamGeneration(
    OpenStreams& streams, grpc::CallbackServerContext* context, const absl::Status& admitted,
    EncodePool& pool, size_t bytes, PrepareGeneration prepare) {
  auto stream = std::make_shared<Stream>(streams, context);
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
