// The agent against the coordinator's side of Synchronize, both real, over gRPC.
#include "worker/serve/inference_agent.h"

#include <thread>

#include "coordinator/gateway/inference_agent_service.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/fake_desired_models.h"
#include "tests/serve/served.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

const WorkerId kWorker("w1");

class InferenceAgentTest : public ::testing::Test {
 protected:
  InferenceAgentTest() : registry_(clock_, absl::Hours(1)) { StartCoordinator("127.0.0.1:0"); }
  ~InferenceAgentTest() override {
    if (agent_ != nullptr) agent_->Stop();
    StopCoordinator();
  }

  void StartCoordinator(const std::string& listen, absl::Duration park = absl::Hours(1)) {
    service_ = std::make_unique<InferenceAgentService>(registry_, desired_, park);
    auto server = GrpcServer::Start({.listen = listen}, {service_.get()});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
  }
  void StopCoordinator() {
    if (service_ != nullptr) service_->Shutdown();
    server_.reset();
    service_.reset();
  }
  void StartAgent(Served& served, absl::Duration backoff = absl::Milliseconds(5)) {
    InferenceAgent::Options options;
    auto channel =
        MakeChannel(server_->address(), {.max_reconnect_backoff = absl::Milliseconds(50)});
    MF_CHECK_OK(channel);
    options.channel = *channel;
    options.worker_id = kWorker.value();
    options.name = "serve-1";
    options.address = served.server().address();
    options.device = "cpu";
    options.first_backoff = backoff;
    options.last_backoff = 10 * backoff;
    agent_ = std::make_unique<InferenceAgent>(std::move(options), served.host());
    agent_->Start();
  }
  void Want(const std::optional<v1::DesiredModel>& model) {
    desired_.Set(kWorker, {.model = model, .version = ++version_});
  }
  bool EventuallyReports(const std::function<bool(const InferenceWorker&)>& condition) {
    return Eventually([&] {
      const std::optional<InferenceWorker> worker = registry_.Find(kWorker);
      return worker.has_value() && condition(*worker);
    });
  }
  bool EventuallyServes(const std::string& version) {
    return EventuallyReports([&](const InferenceWorker& worker) {
      return worker.ready && worker.weights_version == version;
    });
  }

  const RealClock clock_;
  FakeDesiredModels desired_;
  InferenceRegistry registry_;
  std::unique_ptr<InferenceAgentService> service_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<InferenceAgent> agent_;
  int64_t version_ = 1000;
};

// A host that pokes the agent, as the program wires them.
ServedOptions Poking(std::unique_ptr<InferenceAgent>& agent) {
  return {.load = false, .on_change = [&agent] {
            if (agent != nullptr) agent->Poke();
          }};
}

TEST_F(InferenceAgentTest, ServesWhatTheCoordinatorSaysAndReportsIt) {
  Want(std::nullopt);
  Served served(Poking(agent_));
  StartAgent(served);
  ASSERT_TRUE(EventuallyReports([&](const InferenceWorker& worker) {
    return worker.address == served.server().address() && !worker.ready;
  }));
  // The call is parked for an hour: only a push and a poke can make these happen.
  Want(Desire("poems", "v1"));
  ASSERT_TRUE(EventuallyServes("v1"));
  EXPECT_EQ(registry_.Find(kWorker)->deployment, "poems");
  EXPECT_EQ(registry_.Find(kWorker)->numerics_id, "fake-1");
  EXPECT_TRUE(registry_.Find(kWorker)->renders_tools);
  EXPECT_EQ(registry_.Find(kWorker)->slots, 4);
  Want(std::nullopt);
  EXPECT_TRUE(EventuallyReports([](const InferenceWorker& worker) { return !worker.ready; }));
  agent_->Stop();
}

TEST_F(InferenceAgentTest, SwapsUnderLoadWithoutFailingARequest) {
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served);
  ASSERT_TRUE(EventuallyServes("v1"));
  Mutex mutex;
  bool done = false;
  std::vector<std::thread> threads;
  std::vector<absl::Status> failures(3);
  for (absl::Status& failure : failures) {
    threads.emplace_back([&] {
      while (failure.ok()) {
        failure.Update(Listen(served.stub(), Say(std::string("moon over the river"))).status);
        MutexLock lock(mutex);
        if (done) return;
      }
    });
  }
  for (int i = 2; i < 8; ++i) {
    Want(Desire("poems", "v" + std::to_string(i)));
    ASSERT_TRUE(EventuallyServes("v" + std::to_string(i)));
  }
  {
    MutexLock lock(mutex);
    done = true;
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& failure : failures) EXPECT_TRUE(failure.ok()) << failure;
  agent_->Stop();
}

TEST_F(InferenceAgentTest, ReportsAFailedLoadAndServesOn) {
  Want(Desire("poems", "v1"));
  ServedOptions options = Poking(agent_);
  options.adjust = [](ServedModel& model) {
    return model.weights_version == "v2" ? absl::DataLossError("v2 is damaged") : absl::OkStatus();
  };
  Served served(std::move(options));
  StartAgent(served);
  ASSERT_TRUE(EventuallyServes("v1"));
  Want(Desire("poems", "v2"));
  ASSERT_TRUE(EventuallyReports([](const InferenceWorker& worker) {
    return worker.load_error_version == "v2" && worker.weights_version == "v1" && worker.ready;
  }));
  EXPECT_EQ(registry_.Find(kWorker)->load_error, "v2 is damaged");
  agent_->Stop();
}

TEST_F(InferenceAgentTest, ServesOnWhileTheCoordinatorIsAwayAndFindsItAgain) {
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served);
  ASSERT_TRUE(EventuallyServes("v1"));
  const std::string address = server_->address();
  StopCoordinator();
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());
  Want(Desire("poems", "v2"));
  StartCoordinator(address);
  EXPECT_TRUE(EventuallyServes("v2"));
  agent_->Stop();
}

TEST_F(InferenceAgentTest, FindsARestartedCoordinatorWithoutWaitingOutItsPause) {
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served, /*backoff=*/absl::Hours(1));
  ASSERT_TRUE(EventuallyServes("v1"));
  const std::string address = server_->address();
  StopCoordinator();
  Want(Desire("poems", "v2"));
  StartCoordinator(address);
  EXPECT_TRUE(EventuallyServes("v2"));
  agent_->Stop();
}

TEST_F(InferenceAgentTest, StopsWhileTheCoordinatorIsAway) {
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served, /*backoff=*/absl::Hours(1));
  ASSERT_TRUE(EventuallyServes("v1"));
  StopCoordinator();
  agent_->Stop();  // returns
}

TEST_F(InferenceAgentTest, TellsThatItDrains) {
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served);
  ASSERT_TRUE(EventuallyServes("v1"));
  ASSERT_TRUE(served.host().Drain(absl::Seconds(60)).ok());
  EXPECT_TRUE(EventuallyReports(
      [](const InferenceWorker& worker) { return worker.draining && !worker.ready; }));
  agent_->Stop();
}

TEST_F(InferenceAgentTest, TellsThatItsDeviceHasFailed) {
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served);
  ASSERT_TRUE(EventuallyServes("v1"));
  served.control().FailNext(absl::InternalError("the device fell over"), 3);
  for (int i = 0; i < 3; ++i) Listen(served.stub(), Say(std::string("moon")));
  EXPECT_TRUE(EventuallyReports(
      [](const InferenceWorker& worker) { return !worker.draining && !worker.ready; }));
  agent_->Stop();
}

TEST_F(InferenceAgentTest, AnswersAParkedCallWhenItsTimeIsUp) {
  StopCoordinator();
  StartCoordinator("127.0.0.1:0", absl::Milliseconds(10));
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served);
  // Without an answer at the end of the park there would be three reports at most.
  EXPECT_TRUE(Eventually([&] { return desired_.reports(kWorker) > 6; }));
  agent_->Stop();
}

TEST_F(InferenceAgentTest, AnIdBelongsToTheProcessThatIsConnected) {
  Want(Desire("poems", "v1"));
  Served served(Poking(agent_));
  StartAgent(served);
  ASSERT_TRUE(EventuallyServes("v1"));
  auto channel = MakeChannel(server_->address());
  ASSERT_TRUE(channel.ok());
  const auto stub = v1::InferenceAgentService::NewStub(*channel);
  const auto report = [&](const std::string& address) {
    v1::InferenceAgentServiceSynchronizeRequest request;
    request.set_worker_id(kWorker.value());
    request.set_incarnation("another");
    request.set_address(address);
    request.set_no_park(true);
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(60));
    v1::InferenceAgentServiceSynchronizeResponse response;
    return FromGrpcStatus(stub->Synchronize(&context, request, &response));
  };
  absl::Status refused;
  // The agent's own call may be between two parks.
  ASSERT_TRUE(Eventually([&] { return !(refused = report("10.0.0.9:7071")).ok(); }));
  EXPECT_TRUE(absl::IsAlreadyExists(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("10.0.0.9:7071"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr(served.server().address()));
  EXPECT_TRUE(report(served.server().address()).ok()) << "its successor, since the port is free";
  // Dead, whether or not a call of it is still parked somewhere.
  agent_->Stop();
  EXPECT_TRUE(Eventually([&] { return report("10.0.0.9:7071").ok(); }));
}

TEST_F(InferenceAgentTest, TheServiceRefusesAReportWithoutIdOrAddress) {
  auto channel = MakeChannel(server_->address());
  ASSERT_TRUE(channel.ok());
  const auto stub = v1::InferenceAgentService::NewStub(*channel);
  grpc::ClientContext context;
  v1::InferenceAgentServiceSynchronizeResponse response;
  const absl::Status status = FromGrpcStatus(stub->Synchronize(&context, {}, &response));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(GetViolations(status).size(), 2u);
}

}  // namespace
}  // namespace mindforge
