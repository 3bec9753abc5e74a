// grpc_status.h, grpc_server.h, grpc_client.h: a server and a client in one process.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/durable_file.h"
#include "common/grpc_client.h"
#include "common/grpc_server.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/subprocess.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "mindforge/v1/job_service.grpc.pb.h"
#include "mindforge/v1/worker_service.grpc.pb.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

constexpr int kManyViolations = 100;
constexpr char kService[] = "mindforge.v1.WorkerService";

// Answers GetWorker with what the caller asked for, or an error with details.
class EchoService : public v1::WorkerService::Service {
 public:
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse*) override {
    saw_token = context->client_metadata().count("authorization") > 0;
    ++calls;
    MutexLock lock(mutex_);
    changed_.SignalAll();
    changed_.Wait(mutex_, [this] {
      mutex_.AssertHeld();
      return !held_;
    });
    return grpc::Status::OK;
  }
  grpc::Status DrainWorker(grpc::ServerContext*, const v1::DrainWorkerRequest* request,
                           v1::DrainWorkerResponse*) override {
    if (request->worker() == "long") {
      std::vector<FieldViolation> violations;
      for (int i = 0; i < kManyViolations; ++i) {
        violations.push_back({absl::StrCat("devices[", i, "].id"), std::string(i * 10, 'x')});
      }
      violations[0].description = "是 nothing of ours";
      return ToGrpcStatus(InvalidArgument(violations));
    }
    return ToGrpcStatus(InvalidArgument("worker", "is empty"));
  }

  // From now on calls of ListWorkers wait until Release.
  void Hold() {
    MutexLock lock(mutex_);
    held_ = true;
  }
  void Release() {
    MutexLock lock(mutex_);
    held_ = false;
    changed_.SignalAll();
  }
  void AwaitCall() {
    MutexLock lock(mutex_);
    changed_.Wait(mutex_, [this] { return calls > 0; });
  }

  std::atomic<int> calls = 0;
  std::atomic<bool> saw_token = false;

 private:
  Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::Status List(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(5));
  v1::ListWorkersResponse response;
  return FromGrpcStatus(v1::WorkerService::NewStub(channel)->ListWorkers(
      &context, v1::ListWorkersRequest(), &response));
}

std::string Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(5));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status =
      grpc::health::v1::Health::NewStub(channel)->Check(&context, request, &response);
  if (!status.ok()) return status.error_message();
  return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status());
}

class GrpcTest : public testing::Test {
 protected:
  std::unique_ptr<GrpcServer> StartServer(GrpcServerOptions options) {
    if (options.listen.empty()) options.listen = "127.0.0.1:0";
    auto server = GrpcServer::Start(options, {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  std::string TokenFile(const std::string& name, const std::string& token) {
    EXPECT_TRUE(WriteFileDurably(dir_.File(name), token + "\n").ok());
    return dir_.File(name);
  }

  const TempDir dir_;
  EchoService service_;
};

TEST(GrpcStatus, CarriesReasonAndViolationsThereAndBack) {
  const absl::Status sent = InvalidArgument({{"a", "bad"}, {"b", "worse"}});
  const grpc::Status wire = ToGrpcStatus(sent);
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(FromGrpcStatus(wire), sent);
  google::rpc::Status parsed;
  ASSERT_TRUE(parsed.ParseFromString(wire.error_details()));
  EXPECT_EQ(parsed.code(), 3);
  EXPECT_EQ(parsed.details_size(), 2);
}

TEST(GrpcStatus, GivesEveryErrorAReason) {
  const absl::Status got = FromGrpcStatus(ToGrpcStatus(absl::NotFoundError("gone")));
  EXPECT_EQ(GetReason(got), "NOT_FOUND");
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_EQ(FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "x", "no proto")).code(),
            absl::StatusCode::kAborted);
}

TEST_F(GrpcTest, ErrorDetailsCrossTheWire) {
  const auto server = StartServer({});
  const auto channel = *MakeChannel(server->address());
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(5));
  v1::DrainWorkerResponse response;
  const absl::Status status = FromGrpcStatus(v1::WorkerService::NewStub(channel)->DrainWorker(
      &context, v1::DrainWorkerRequest(), &response));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetViolations(status), (std::vector<FieldViolation>{{"worker", "is empty"}}));
}

absl::Status DrainLong(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(5));
  v1::DrainWorkerRequest request;
  request.set_worker("long");
  v1::DrainWorkerResponse response;
  return FromGrpcStatus(
      v1::WorkerService::NewStub(channel)->DrainWorker(&context, request, &response));
}

// Clients in other languages take 8 KiB of trailers, which an error's text and details have to fit.
TEST_F(GrpcTest, ALongRefusalReachesACallerThatTakesNoMoreThanUsual) {
  const auto server = StartServer({});
  for (const auto& channel :
       {grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials()),
        *MakeChannel(server->address())}) {
    const absl::Status status = DrainLong(channel);
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("devices[0].id: 是 nothing of ours"));
    EXPECT_EQ(GetReason(status), "INVALID_FIELD");
    const std::vector<FieldViolation> violations = GetViolations(status);
    ASSERT_GT(violations.size(), 10u);
    EXPECT_EQ(violations[7].field, "devices[7].id");
    EXPECT_EQ(violations[7].description, std::string(70, 'x'));
    EXPECT_EQ(violations.back().field, "");
    EXPECT_EQ(violations.back().description,
              absl::StrCat("and ", kManyViolations + 1 - violations.size(), " more"));
  }
}

TEST(GrpcStatus, ALongTextIsCutWhateverItIsWrittenIn) {
  for (const std::string letter : {"x", "是", "%", "\n"}) {
    std::string text;
    for (int i = 0; i < 20'000; ++i) text += letter;
    const grpc::Status wire = ToGrpcStatus(InvalidArgument("job", text));
    EXPECT_LT(wire.error_message().size() * (letter == "x" ? 1 : 3), 1200u);
    EXPECT_LT(wire.error_details().size(), 4000u);
    EXPECT_THAT(wire.error_message(), testing::EndsWith("..."));
    google::rpc::Status parsed;
    EXPECT_TRUE(parsed.ParseFromString(wire.error_details())) << "cut inside a character?";
  }
}

TEST_F(GrpcTest, HealthIsToldPerService) {
  const auto server = StartServer({});
  const auto channel = *MakeChannel(server->address());
  EXPECT_EQ(Health(channel, ""), "SERVING");
  EXPECT_NE(Health(channel, kService), "SERVING");
  server->SetServing(kService, true);
  EXPECT_EQ(Health(channel, kService), "SERVING");
  server->SetServing(kService, false);
  EXPECT_EQ(Health(channel, kService), "NOT_SERVING");
}

TEST_F(GrpcTest, TokenIsCheckedBeforeAnyHandlerRuns) {
  const auto server = StartServer({.token_file = TokenFile("t", "0123456789abcdef")});
  EXPECT_EQ(List(*MakeChannel(server->address())).code(), absl::StatusCode::kUnauthenticated);
  const std::string wrong = TokenFile("w", "0123456789abcdeX");
  const absl::Status refused = List(*MakeChannel(server->address(), {.token_file = wrong}));
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--token-file"));
  EXPECT_EQ(service_.calls, 0);
  const auto right = *MakeChannel(server->address(), {.token_file = dir_.File("t")});
  EXPECT_TRUE(List(right).ok()) << List(right);
  EXPECT_EQ(service_.calls, 1);
  EXPECT_FALSE(service_.saw_token) << "no handler needs to see the token";
}

TEST_F(GrpcTest, HealthNeedsNoToken) {
  const auto server = StartServer({.token_file = TokenFile("t", "0123456789abcdef")});
  EXPECT_EQ(Health(*MakeChannel(server->address()), ""), "SERVING");
}

TEST_F(GrpcTest, RefusesAPoorTokenFile) {
  EXPECT_EQ(ReadTokenFile(TokenFile("s", "short")).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadTokenFile(TokenFile("two", "0123456789abcdef\n0123456789abcdef")).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadTokenFile(dir_.File("none")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GrpcTest, TlsIsSpokenAndTheServerIsVerified) {
  const auto openssl =
      Subprocess::Spawn({.argv = {"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                                  "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                                  "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                                  "-keyout", dir_.File("key"), "-out", dir_.File("cert")}});
  ASSERT_TRUE(openssl.ok() && (*openssl)->Wait().ok()) << openssl.status();
  const auto server =
      StartServer({.tls = {.cert_file = dir_.File("cert"), .key_file = dir_.File("key")},
                   .token_file = TokenFile("t", "0123456789abcdef")});
  const auto good =
      *MakeChannel(server->address(), {.ca_file = dir_.File("cert"), .token_file = dir_.File("t")});
  EXPECT_TRUE(List(good).ok()) << List(good);
  const auto no_token = *MakeChannel(server->address(), {.ca_file = dir_.File("cert")});
  EXPECT_EQ(List(no_token).code(), absl::StatusCode::kUnauthenticated);
  const auto plain = *MakeChannel(server->address(), {.token_file = dir_.File("t")});
  EXPECT_EQ(List(plain).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(service_.calls, 1);
}

TEST_F(GrpcTest, RefusesACertificateThatIsNone) {
  ASSERT_TRUE(WriteFileDurably(dir_.File("junk"), "junk").ok());
  const auto server =
      GrpcServer::Start({.listen = "127.0.0.1:0",
                         .tls = {.cert_file = dir_.File("junk"), .key_file = dir_.File("junk")}},
                        {&service_});
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument) << server.status();
  EXPECT_EQ(GrpcServer::Start({.listen = "127.0.0.1:0", .tls = {.cert_file = dir_.File("junk")}},
                              {&service_})
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CheckServerExposure, RefusesTheOpenNetworkWithoutTlsAndToken) {
  const absl::Status open = CheckServerExposure({.listen = "0.0.0.0:7070"});
  EXPECT_EQ(open.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(open.message()), HasSubstr("--insecure"));
  EXPECT_FALSE(CheckServerExposure({.listen = "0.0.0.0:7070", .token_file = "t"}).ok());
  EXPECT_FALSE(
      CheckServerExposure({.listen = "[::]:7070", .tls = {.cert_file = "c", .key_file = "k"}})
          .ok());
  EXPECT_TRUE(
      CheckServerExposure(
          {.listen = "0.0.0.0:7070", .tls = {.cert_file = "c", .key_file = "k"}, .token_file = "t"})
          .ok());
  EXPECT_TRUE(CheckServerExposure({.listen = "0.0.0.0:7070", .insecure = true}).ok());
  EXPECT_TRUE(CheckServerExposure({.listen = "127.0.0.1:0"}).ok());
  EXPECT_EQ(CheckServerExposure({.listen = "x"}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GrpcTest, NamesTheFlagOfATakenPort) {
  const auto first = StartServer({});
  const auto second = GrpcServer::Start({.listen = first->address()}, {&service_});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--listen"));
}

TEST_F(GrpcTest, CountsCallsByMethodAndCode) {
  MetricsRegistry metrics("mindforge-test");
  const auto server =
      StartServer({.token_file = TokenFile("t", "0123456789abcdef"), .metrics = &metrics});
  ASSERT_TRUE(List(*MakeChannel(server->address(), {.token_file = dir_.File("t")})).ok());
  EXPECT_FALSE(List(*MakeChannel(server->address())).ok());
  server->Drain(absl::Seconds(5));
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method="
                              "\"ListWorkers\",grpc_service=\"mindforge.v1.WorkerService\"} 1"));
  EXPECT_THAT(text, HasSubstr("grpc_code=\"Unauthenticated\""));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_count{grpc_method=\"ListWorkers\""));
}

TEST_F(GrpcTest, WhatCallersInventIsNoLabel) {
  MetricsRegistry metrics("mindforge-test");
  v1::JobService::CallbackService jobs;  // its methods say UNIMPLEMENTED themselves
  auto server = GrpcServer::Start({.listen = "127.0.0.1:0", .metrics = &metrics}, {&jobs});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = *MakeChannel((*server)->address());
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  for (const char* method :
       {"/mindforge.v1.JobService/GetJob", "/an.Invented/One", "/a.Second/B"}) {
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(5));
    const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
  }
  (*server)->Drain(absl::Seconds(5));
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("{grpc_code=\"Unimplemented\",grpc_method=\"GetJob\""));
  EXPECT_THAT(text, HasSubstr("{grpc_code=\"Unimplemented\",grpc_method=\"unknown\","
                              "grpc_service=\"unknown\"} 2"));
  EXPECT_THAT(text, Not(HasSubstr("Invented")));
}

// A connection that said hello as HTTP/2 does and never reads what the server says.
UniqueFd ConnectAndIgnore(int port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  MF_CHECK_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string hello("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
  MF_CHECK_EQ(::write(fd.get(), hello.data(), hello.size()), static_cast<ssize_t>(hello.size()));
  char settings = 0;  // the server's answer: it takes this for a connection
  MF_CHECK_EQ(::read(fd.get(), &settings, 1), 1);
  return fd;
}

TEST_F(GrpcTest, ADrainDoesNotWaitForAConnectionWithoutCalls) {
  const auto server = StartServer({});
  const UniqueFd idle = ConnectAndIgnore(server->port());
  const auto channel = *MakeChannel(server->address());
  ASSERT_TRUE(List(channel).ok());
  const absl::Time start = absl::Now();
  server->Drain(absl::Seconds(10));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

// A call under way has its time, and its answer arrives whole.
TEST_F(GrpcTest, ADrainWaitsForACallUnderWay) {
  const auto server = StartServer({});
  const auto channel = *MakeChannel(server->address());
  service_.Hold();
  absl::Status status = absl::UnknownError("not called");
  std::thread call([&] { status = List(channel); });
  service_.AwaitCall();
  std::thread drain([&] { server->Drain(absl::Minutes(1)); });
  while (Health(channel, "") == "SERVING") continue;  // until the drain has begun
  service_.Release();
  call.join();
  drain.join();
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(GrpcTest, AnUnreachableServerIsUnavailable) {
  const auto server = StartServer({});
  const auto channel = *MakeChannel(server->address());
  EXPECT_TRUE(List(channel).ok());
  server->Drain(absl::ZeroDuration());
  EXPECT_EQ(List(channel).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace mindforge
