// abandoned_readers ADDRESS KIND COUNT MODE: opens COUNT server streams, each on a connection of
// its own, reads one message of each and then behaves badly, as MODE says. Prints "ready" when it
// has.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/grpc_client.h"
#include "common/mutex.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "mindforge/v1/job_service.grpc.pb.h"

namespace mindforge {
namespace {

// How many streams have had their message, and how many have ended.
struct Tally {
  Mutex mutex;
  CondVar changed;
  int read ABSL_GUARDED_BY(mutex) = 0;
  int ended ABSL_GUARDED_BY(mutex) = 0;

  void Count(int Tally::*what) {
    MutexLock lock(mutex);
    ++(this->*what);
    changed.SignalAll();
  }
  void WaitFor(int Tally::*what, int count) {
    MutexLock lock(mutex);
    while (this->*what < count) changed.Wait(mutex);
  }
};

class Reader {
 public:
  virtual ~Reader() = default;
  grpc::ClientContext context;
};

template <typename Response>
class OneRead : public Reader, public grpc::ClientReadReactor<Response> {
 public:
  explicit OneRead(Tally& tally) : tally_(tally) { SetDeadline(context, absl::Hours(1)); }
  void Start() {
    this->StartRead(&response_);
    this->StartCall();
  }
  void OnReadDone(bool ok) override {
    MF_CHECK(ok) << "every stream begins with a message";
    tally_.Count(&Tally::read);
  }
  void OnDone(const grpc::Status&) override { tally_.Count(&Tally::ended); }

 private:
  Tally& tally_;
  Response response_;
};

std::unique_ptr<Reader> Open(const std::string& kind, std::shared_ptr<grpc::Channel> channel,
                             Tally& tally) {
  const auto started = [](auto reader) -> std::unique_ptr<Reader> {
    reader->Start();
    return reader;
  };
  if (kind == "generate") {
    static const v1::GenerateRequest request = [] {
      v1::GenerateRequest generate;
      generate.set_text("moon");
      generate.mutable_stopping()->set_max_new_tokens(20'000);
      generate.mutable_stopping()->set_ignore_eos(true);
      generate.mutable_output()->set_logprobs(true);
      generate.mutable_output()->set_top_logprobs(20);
      return generate;
    }();
    auto reader = std::make_unique<OneRead<v1::GenerateResponse>>(tally);
    v1::InferenceService::NewStub(channel)->async()->Generate(&reader->context, &request,
                                                              reader.get());
    return started(std::move(reader));
  }
  const auto stub = v1::JobService::NewStub(channel);
  if (kind == "watch") {
    static const v1::WatchJobRequest request = [] {
      v1::WatchJobRequest watch;
      watch.set_job("tang");
      return watch;
    }();
    auto reader = std::make_unique<OneRead<v1::WatchJobResponse>>(tally);
    stub->async()->WatchJob(&reader->context, &request, reader.get());
    return started(std::move(reader));
  }
  if (kind == "logs") {
    static const v1::StreamJobLogsRequest request = [] {
      v1::StreamJobLogsRequest logs;
      logs.set_job("tang");
      logs.set_follow(true);
      return logs;
    }();
    auto reader = std::make_unique<OneRead<v1::StreamJobLogsResponse>>(tally);
    stub->async()->StreamJobLogs(&reader->context, &request, reader.get());
    return started(std::move(reader));
  }
  MF_CHECK(kind == "metrics") << kind;
  static const v1::StreamJobMetricsRequest request = [] {
    v1::StreamJobMetricsRequest metrics;
    metrics.set_job("tang");
    metrics.set_follow(true);
    return metrics;
  }();
  auto reader = std::make_unique<OneRead<v1::StreamJobMetricsResponse>>(tally);
  stub->async()->StreamJobMetrics(&reader->context, &request, reader.get());
  return started(std::move(reader));
}

// Says on every connection that no more will be sent.
void HalfClose() {
  for (int fd = 3; fd < 65536; ++fd) {
    sockaddr_storage peer{};
    socklen_t length = sizeof(peer);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) == 0 &&
        (peer.ss_family == AF_INET || peer.ss_family == AF_INET6)) {
      ::shutdown(fd, SHUT_WR);
    }
  }
}

// A connection of its own whose window stays small, whatever the loopback could take: a reader that
// stops reading is soon felt.
std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 10);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void Run(const std::string& address, const std::string& kind, int count, const std::string& mode) {
  Tally tally;
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < count; ++i) {
    readers.push_back(Open(kind, Connect(address), tally));
  }
  tally.WaitFor(&Tally::read, count);
  if (mode == "closed") {
    for (const auto& reader : readers) reader->context.TryCancel();
    tally.WaitFor(&Tally::ended, count);
    readers.clear();
  }
  if (mode == "half-closed") HalfClose();
  std::printf("ready\n");
  std::fflush(stdout);
  while (mode != "closed") ::pause();  // until it is killed
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  MF_CHECK_EQ(argc, 5);
  mindforge::Run(argv[1], argv[2], std::atoi(argv[3]), argv[4]);
  return 0;
}
