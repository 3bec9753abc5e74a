// A server stream on gRPC's callback API, driven by a StreamMachine: every server stream of ours is
// one, so that none can write twice, finish twice, or stay when its caller has gone.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/open_streams.h"
#include "common/stream_machine.h"
#include "grpc/grpc.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace mindforge {

// Thread-safe. Lives until gRPC is done with the call: it holds itself. `streams` is borrowed and
// outlives the server. Make it with std::make_shared, then Open it, which the handler returns.
template <typename Message>
class ServerStream : public grpc::ServerWriteReactor<Message>,
                     public OpenStream,
                     public std::enable_shared_from_this<ServerStream<Message>> {
 public:
  ServerStream(OpenStreams& streams, grpc::CallbackServerContext* context)
      : streams_(streams), call_(context->c_call()) {}

  // Registers the stream. Call once, before anything else.
  void Open() {
    const auto self = this->shared_from_this();
    {
      MutexLock lock(stream_mutex_);
      self_ = self;
    }
    const int64_t key = streams_.Add(std::weak_ptr<OpenStream>(self));
    MutexLock lock(stream_mutex_);
    key_ = key;
  }

  void Look(absl::Duration now, absl::Duration unread) final {
    Drive([&](StreamMachine& machine) { return machine.Look(now, unread); });
  }

 protected:
  // Sends `message`, or drops it when the stream has ended. REQUIRES: nothing is being sent, which
  // OnSent tells.
  void Send(Message message) {
    Drive([&](StreamMachine& machine) {
      const StreamMachine::Act act = machine.Write(streams_.Now());
      if (act.write) message_ = std::move(message);
      return act;
    });
  }
  // Ends the stream once what is being sent has left. The first status counts.
  void End(const absl::Status& status) {
    Drive([&](StreamMachine& machine) { return machine.End(status); });
  }
  // Between them the call, its request and its context stay, though the caller may be gone.
  void Hold() {
    MutexLock lock(stream_mutex_);
    machine_.Hold();
  }
  void Release() {
    Drive([](StreamMachine& machine) { return machine.Release(); });
  }

  // The message has left: the next may be sent. gRPC may call it from within Send.
  virtual void OnSent() = 0;
  // The caller is gone or was given up: what is sent from here on is dropped. At most once. The
  // stream ends by itself as soon as nobody holds it.
  virtual void OnGone() {}
  // gRPC is done with the call. The stream may go when this returns.
  virtual void OnClosed() {}

 private:
  void OnWriteDone(bool ok) final {
    Drive([ok](StreamMachine& machine) { return machine.WriteDone(ok); });
  }
  void OnCancel() final {
    Drive([](StreamMachine& machine) { return machine.CallerGone(); });
  }
  void OnDone() final {
    std::shared_ptr<ServerStream> self;  // the last reference may be this one
    int64_t key = 0;
    {
      MutexLock lock(stream_mutex_);
      self = std::move(self_);
      key = key_;
    }
    streams_.Remove(key);
    OnClosed();
  }

  // Tells the machine of an event and does what it says.
  template <typename Event>
  void Drive(Event event) {
    const auto self = this->shared_from_this();  // finishing may end the call before it returns
    StreamMachine::Act act;
    absl::Status end;
    {
      MutexLock lock(stream_mutex_);
      act = event(machine_);
      if (machine_.ended()) end = machine_.end();
    }
    Perform(act, end);
  }

  void Perform(const StreamMachine::Act& act, const absl::Status& end) {
    if (act.gone) OnGone();
    if (act.abort) Abort(end);
    if (act.write) this->StartWrite(&message_);
    if (act.sent) OnSent();
    if (act.finish) this->Finish(ToGrpcStatus(end));
  }

  // Until AbortReturned the call cannot end. The status reaches a caller that reads after all.
  void Abort(const absl::Status& end) {
    const std::string why(end.message());
    grpc_call_cancel_with_status(call_, static_cast<grpc_status_code>(end.raw_code()), why.c_str(),
                                 nullptr);
    StreamMachine::Act act;
    {
      MutexLock lock(stream_mutex_);
      act = machine_.AbortReturned();
    }
    Perform(act, end);
  }

  OpenStreams& streams_;
  grpc_call* const call_;
  Mutex stream_mutex_;
  StreamMachine machine_ ABSL_GUARDED_BY(stream_mutex_);
  Message message_;  // being written; the machine's, as one write is under way at a time
  int64_t key_ ABSL_GUARDED_BY(stream_mutex_) = 0;
  std::shared_ptr<ServerStream> self_ ABSL_GUARDED_BY(stream_mutex_);
};

}  // namespace mindforge
