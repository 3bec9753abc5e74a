// The whole inference worker in one process, on a loader that the test holds.
#include "worker/serve/inference_server.h"

#include <atomic>
#include <filesystem>
#include <thread>

#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/fakes/temp_dir.h"
#include "tests/serve/served.h"
#include "worker/serve/exit_watchdog.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

InferenceOptions Options(const std::string& model) {
  v1::InferenceConfig config;
  config.set_model(model);
  config.set_listen("127.0.0.1:0");
  config.set_metrics("127.0.0.1:0");
  auto options = ReadInferenceOptions(config);
  MF_CHECK_OK(options);
  return *options;
}

// Loads when it is let.
class HeldLoader {
 public:
  ModelHost::Loader Get() {
    return [this](const v1::DesiredModel& desired) -> absl::StatusOr<LoadedModel> {
      MutexLock lock(mutex_);
      changed_.Wait(mutex_, [this] {
        mutex_.AssertHeld();
        return open_;
      });
      if (!failure_.ok()) return failure_;
      LoadedModel loaded;
      loaded.model = TestModel(desired.deployment(), desired.weights_version());
      loaded.model->max_context = 8192;
      loaded.runner = std::make_unique<EchoModelRunner>(
          FakeModelOptions{.vocab_size = kVocab, .max_context = 8192}, &control_);
      return loaded;
    };
  }
  void Open(absl::Status failure = absl::OkStatus()) {
    MutexLock lock(mutex_);
    open_ = true;
    failure_ = std::move(failure);
    changed_.SignalAll();
  }
  FakeModelControl& control() { return control_; }

 private:
  FakeModelControl control_;
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

bool Healthy(const std::string& address) {
  auto channel = MakeChannel(address);
  MF_CHECK_OK(channel);
  const auto stub = grpc::health::v1::Health::NewStub(*channel);
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(60));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("mindforge.v1.InferenceService");
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  return status.ok() && response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
}

TEST(InferenceServer, IsHealthyOnceItServesAndUntilItDrains) {
  HeldLoader loader;
  auto server = InferenceServer::Start(Options("/models/poems"), loader.Get());
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_FALSE(Healthy((*server)->address()));
  loader.Open();
  ASSERT_TRUE((*server)->WaitForModel().ok());
  ASSERT_TRUE(Eventually([&] { return Healthy((*server)->address()); }));

  auto channel = MakeChannel((*server)->address());
  ASSERT_TRUE(channel.ok());
  const auto stub = v1::InferenceService::NewStub(*channel);
  loader.control().Hold();
  Heard heard;
  std::thread stream([&] { heard = Listen(*stub, Say(std::string("moon river"))); });
  loader.control().AwaitArrivals(1);
  std::thread drain([&] { (*server)->Drain(absl::Seconds(60)); });
  EXPECT_TRUE(Eventually([&] { return !Healthy((*server)->address()); }));
  EXPECT_TRUE(absl::IsUnavailable(Listen(*stub, Say(std::string("late"))).status));
  loader.control().Open();
  stream.join();
  drain.join();
  EXPECT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.text(), "moon river");
  EXPECT_EQ(heard.started().worker_id().empty(), false);
}

TEST(InferenceServer, EndsRequestsThatOutlastTheDrain) {
  HeldLoader loader;
  loader.Open();
  auto server = InferenceServer::Start(Options("/models/poems"), loader.Get());
  ASSERT_TRUE(server.ok() && (*server)->WaitForModel().ok());
  auto channel = MakeChannel((*server)->address());
  const auto stub = v1::InferenceService::NewStub(*channel);
  loader.control().Hold();
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(8000);
  Heard heard;
  std::thread stream([&] { heard = Listen(*stub, request); });
  loader.control().AwaitArrivals(1);
  loader.control().Allow(3);
  std::atomic<bool> drained = false;
  std::thread drain([&] {
    (*server)->Drain(absl::ZeroDuration());
    drained = true;
  });
  // One step at a time, far fewer than the request has.
  EXPECT_TRUE(Eventually([&] {
    loader.control().Allow(1);
    return drained.load();
  }));
  stream.join();
  drain.join();
  EXPECT_TRUE(absl::IsUnavailable(heard.status)) << heard.status;
  EXPECT_EQ(GetReason(heard.status), "DRAINING");
}

TEST(InferenceServer, ADrainGivesUpReadersThatDoNotRead) {
  HeldLoader loader;
  loader.Open();
  auto server = InferenceServer::Start(Options("/models/poems"), loader.Get());
  ASSERT_TRUE(server.ok() && (*server)->WaitForModel().ok());
  const auto stub = NarrowStub((*server)->address(), 1 << 10);
  loader.control().Hold();
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(8000);
  grpc::ClientContext context;
  SetDeadline(context, absl::Minutes(5));
  const auto reader = stub->Generate(&context, request);
  loader.control().AwaitArrivals(1);
  std::atomic<bool> drained = false;
  std::thread drain([&] {
    (*server)->Drain(absl::Seconds(60));
    drained = true;
  });
  // Tokens come one at a time, until the window is full.
  EXPECT_TRUE(Eventually([&] {
    loader.control().Allow(1);
    return drained.load();
  }));
  loader.control().Open();
  drain.join();
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(reader->Finish());
  EXPECT_TRUE(absl::IsAborted(status)) << status;
}

TEST(InferenceServer, IsDoneForOnceThreeStepsInARowHaveFailed) {
  HeldLoader loader;
  loader.Open();
  auto server = InferenceServer::Start(Options("/models/poems"), loader.Get());
  ASSERT_TRUE(server.ok() && (*server)->WaitForModel().ok());
  std::atomic<int> failures = 0;
  (*server)->host().OnFailure([&] { ++failures; });
  auto channel = MakeChannel((*server)->address());
  const auto stub = v1::InferenceService::NewStub(*channel);
  const v1::GenerateRequest request = Say(std::string("moon"));
  loader.control().FailNext(absl::InternalError("a hiccup"), 2);
  EXPECT_TRUE(absl::IsInternal(Listen(*stub, request).status));
  EXPECT_TRUE(absl::IsInternal(Listen(*stub, request).status));
  EXPECT_TRUE(Listen(*stub, request).status.ok());
  EXPECT_TRUE(Eventually([&] { return Healthy((*server)->address()); }));
  EXPECT_EQ(failures, 0);

  loader.control().FailNext(absl::InternalError("CUDA error: misaligned address"), 1000);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(absl::IsInternal(Listen(*stub, request).status));
  ASSERT_TRUE(Eventually([&] { return failures == 1; }));
  EXPECT_FALSE(Healthy((*server)->address()));
  const absl::Status refused = Listen(*stub, request).status;
  EXPECT_TRUE(absl::IsUnavailable(refused)) << "so that the gateway tries another worker";
  EXPECT_THAT(std::string(refused.message()), HasSubstr("misaligned address"));
  (*server)->host().OnFailure([&] { ++failures; });
  EXPECT_EQ(failures, 2) << "at once when it has failed already";
}

TEST(ExitWatchdogDeathTest, EndsAProcessThatHangs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Mutex mutex;
        CondVar never;
        const ExitWatchdog watchdog(absl::Milliseconds(1), "a step of the model");
        MutexLock lock(mutex);
        while (true) never.Wait(mutex);
      },
      ::testing::ExitedWithCode(1), "a step of the model has not ended after 1ms");
}

TEST(ExitWatchdog, LetsAProcessGoOnThatEndedInTime) {
  const ExitWatchdog watchdog(absl::Hours(1), "nothing");
}

TEST(InferenceServer, SaysWhyAFolderCannotBeServed) {
  auto server = InferenceServer::Start(Options("/nowhere/at-all"));
  ASSERT_TRUE(server.ok());
  const absl::Status status = (*server)->WaitForModel();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("config.json"));
}

TEST(InferenceOptions, ListsEveryValueThatCannotBe) {
  v1::InferenceConfig config;
  config.set_listen("nowhere");
  config.set_device("gpu");
  config.set_dtype("int4");
  config.set_slots(-1);
  config.set_model("/models/a");
  config.set_coordinator("127.0.0.1:7070");
  const absl::Status status = ReadInferenceOptions(config).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(GetViolations(status).size(), 5u) << status;
}

TEST(InferenceOptions, EveryAddressIsNoneToBeReachedBy) {
  v1::InferenceConfig config;
  config.set_insecure(true);
  for (const char* listen : {"0.0.0.0:7071", "[::]:7071"}) {
    config.set_listen(listen);
    config.clear_advertise();
    EXPECT_THAT(std::string(ReadInferenceOptions(config).status().message()),
                HasSubstr("--advertise"));
    config.set_advertise("10.0.0.7");
    EXPECT_TRUE(ReadInferenceOptions(config).ok());
  }
  config.clear_advertise();
  config.set_model("/models/a");
  EXPECT_TRUE(ReadInferenceOptions(config).ok()) << "nobody is told an address";
}

TEST(InferenceOptions, HowAModelIsLoadedGoesWithTheModel) {
  v1::InferenceConfig config;
  config.set_lora("polite.pth");
  config.mutable_rope_scaling()->set_type("yarn");
  config.set_prompt_style(v1::PROMPT_STYLE_CHAT);
  EXPECT_EQ(GetViolations(ReadInferenceOptions(config).status()).size(), 3u);
  config.set_model("/models/a");
  const auto options = ReadInferenceOptions(config);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->lora, "polite.pth");
  EXPECT_EQ(options->rope_scaling->type(), "yarn");
  EXPECT_EQ(options->prompt_style, v1::PROMPT_STYLE_CHAT);
}

TEST(InferenceServer, AsksForTheModelAsTheOptionsSay) {
  InferenceOptions options = Options("/models/poems/");
  options.lora = "/adapters/polite.pth";
  options.rope_scaling.emplace().set_type("yarn");
  options.prompt_style = v1::PROMPT_STYLE_CHAT;
  v1::DesiredModel asked;
  FakeModelControl control;
  auto server = InferenceServer::Start(
      options, [&](const v1::DesiredModel& desired) -> absl::StatusOr<LoadedModel> {
        asked = desired;
        LoadedModel loaded{.model = TestModel(desired.deployment(), desired.weights_version())};
        loaded.runner = std::make_unique<EchoModelRunner>(
            FakeModelOptions{.vocab_size = kVocab, .max_context = 256}, &control);
        return loaded;
      });
  ASSERT_TRUE(server.ok() && (*server)->WaitForModel().ok());
  EXPECT_EQ(asked.weights_version(), "poems+polite.pth+rope-yarn");
  EXPECT_EQ(asked.lora_path(), "/adapters/polite.pth");
  EXPECT_EQ(asked.rope_scaling().type(), "yarn");
  EXPECT_EQ(asked.prompt_style(), v1::PROMPT_STYLE_CHAT);
}

TEST(InferenceServer, NamesTheFolderThatItStartedIn) {
  HeldLoader loader;
  loader.Open();
  auto server = InferenceServer::Start(Options("."), loader.Get());
  ASSERT_TRUE(server.ok() && (*server)->WaitForModel().ok());
  const std::string here = std::filesystem::current_path().filename().string();
  EXPECT_EQ((*server)->host().State().model->deployment, here);
  EXPECT_EQ((*server)->host().State().model->weights_version, here);
}

TEST(InferenceOptions, HasTheDefaultsOfTheContract) {
  const InferenceOptions options = *ReadInferenceOptions({});
  EXPECT_EQ(options.coordinator, "127.0.0.1:7070");
  EXPECT_EQ(options.server.listen, "127.0.0.1:7071");
  EXPECT_EQ(options.metrics, "127.0.0.1:9466");
  EXPECT_EQ(options.runner.slots, 32);
  EXPECT_EQ(options.runner.dtype, RunnerDtype::kBfloat16);
}

TEST(WorkerIdentity, IsStableAndOnePerProcess) {
  TempDir folder;
  std::string first;
  {
    const auto one = TakeWorkerIdentity(folder.path());
    const auto two = TakeWorkerIdentity(folder.path());
    ASSERT_TRUE(one.ok() && two.ok());
    EXPECT_NE(one->id, two->id);
    first = one->id;
  }
  EXPECT_EQ(TakeWorkerIdentity(folder.path())->id, first);
}

TEST(WorkerIdentity, AnIdThatCannotBeReadIsNotReplaced) {
  TempDir folder;
  ASSERT_TRUE(MakeDirs(folder.File("worker-1.id")).ok());
  const absl::Status status = TakeWorkerIdentity(folder.path()).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("worker-1.id"));
}

}  // namespace
}  // namespace mindforge
