#include "worker/serve/model_host.h"

#include <atomic>
#include <set>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/serve/served.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TEST(ModelHost, ServesWhatItIsToldAndStopsWhenToldNothing) {
  Served served({.load = false});
  EXPECT_EQ(served.host().Current().model, nullptr);
  served.host().SetDesired(Desire("poems", "v1"));
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  EXPECT_EQ(served.host().Current().model->weights_version, "v1");
  served.host().SetDesired(std::nullopt);
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  EXPECT_EQ(served.host().Current().model, nullptr);
  EXPECT_TRUE(absl::IsUnavailable(Listen(served.stub(), Say(std::string("moon"))).status));
}

TEST(ModelHost, ARequestEndsOnTheWeightsItBeganWith) {
  Served served;
  served.control().Hold();
  Heard old;
  std::thread stream([&] { old = Listen(served.stub(), Say(std::string("moon over river"))); });
  served.control().AwaitArrivals(1);
  const std::shared_ptr<Engine> engine = served.host().Current().engine;
  served.host().SetDesired(Desire("poems", "v2"));
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  EXPECT_EQ(served.host().Current().engine, engine) << "same shape: the same engine";
  served.control().Open();
  const Heard fresh = Listen(served.stub(), Say(std::string("moon")));
  stream.join();
  ASSERT_TRUE(old.status.ok() && fresh.status.ok()) << old.status << fresh.status;
  EXPECT_EQ(old.started().weights_version(), "v1");
  EXPECT_EQ(old.text(), "moon over river");
  EXPECT_EQ(fresh.started().weights_version(), "v2");
}

TEST(ModelHost, SwapsUnderLoadWithoutFailingARequest) {
  Served served({.adjust = [](ServedModel& model) {
    if (model.weights_version.starts_with("other")) model.eos_ids = {5};
    return absl::OkStatus();
  }});
  std::vector<std::thread> threads;
  std::vector<absl::Status> failures(4);
  Mutex mutex;
  bool done = false;
  std::set<std::string> versions;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      while (failures[i].ok()) {
        const Heard heard = Listen(served.stub(), Say(std::string("moon over the river")));
        failures[i].Update(heard.status);
        if (heard.status.ok() && heard.text() != "moon over the river") {
          failures[i] = absl::InternalError(heard.text());
        }
        MutexLock lock(mutex);
        if (heard.status.ok()) versions.insert(heard.started().weights_version());
        if (done) return;
      }
    });
  }
  for (int version = 2; version <= 12; ++version) {
    // Every third one has another shape, hence an engine of its own.
    served.host().SetDesired(
        Desire("poems", (version % 3 == 0 ? "other-" : "v") + std::to_string(version)));
    ASSERT_TRUE(served.host().WaitUntilSettled().ok());
    ASSERT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());
  }
  {
    MutexLock lock(mutex);
    done = true;
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& failure : failures) EXPECT_TRUE(failure.ok()) << failure;
  EXPECT_GT(versions.size(), 1u);
}

TEST(ModelHost, KeepsServingTheOldWhenALoadFailsAndSaysWhy) {
  Served served({.adjust = [](ServedModel& model) {
    return model.weights_version == "broken"
               ? absl::DataLossError("model.safetensors: the hash differs")
               : absl::OkStatus();
  }});
  served.host().SetDesired(Desire("poems", "broken"));
  EXPECT_TRUE(absl::IsDataLoss(served.host().WaitUntilSettled()));
  HostState state = served.host().State();
  EXPECT_EQ(state.model->weights_version, "v1");
  EXPECT_THAT(state.load_error, HasSubstr("the hash differs"));
  EXPECT_EQ(state.load_error_version, "broken");
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());

  served.host().SetDesired(Desire("poems", "v2"));
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  state = served.host().State();
  EXPECT_EQ(state.model->weights_version, "v2");
  EXPECT_EQ(state.load_error, "");
}

TEST(ModelHost, GivesAnotherShapeAnEngineOfItsOwn) {
  Served served({.adjust = [](ServedModel& model) {
    if (model.weights_version == "other") model.eos_ids = {5};
    return absl::OkStatus();
  }});
  served.control().Hold();
  Heard old;
  std::thread stream([&] { old = Listen(served.stub(), Say(std::string("moon over river"))); });
  served.control().AwaitArrivals(1);
  std::weak_ptr<Engine> engine = served.host().Current().engine;
  served.host().SetDesired(Desire("prose", "other"));
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  EXPECT_NE(served.host().Current().engine, engine.lock());
  served.control().Open();
  stream.join();
  EXPECT_EQ(old.text(), "moon over river");
  EXPECT_TRUE(Eventually([&] { return engine.expired(); })) << "the old engine stays in memory";
  EXPECT_EQ(Listen(served.stub(), Say(std::string("moon"))).started().weights_version(), "other");
}

TEST(ModelHost, RenamesWithoutLoading) {
  int loads = 0;
  Served served({.adjust = [&loads](ServedModel&) {
    ++loads;
    return absl::OkStatus();
  }});
  served.host().SetDesired(Desire("verses", "v1"));
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  EXPECT_EQ(served.host().Current().model->deployment, "verses");
  EXPECT_EQ(loads, 1);
}

TEST(ModelHost, StopsWithRequestsUnderWay) {
  auto served = std::make_unique<Served>(
      ServedOptions{.runner = {.vocab_size = kVocab, .max_context = 8192}});
  served->control().Hold();
  Heard heard;
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(8000);
  std::thread stream([&] { heard = Listen(served->stub(), request); });
  served->control().AwaitArrivals(1);
  std::atomic<bool> stopped = false;
  std::thread stopper([&] {
    served->host().Stop();
    stopped = true;
  });
  // One step at a time, far fewer than the request has.
  EXPECT_TRUE(Eventually([&] {
    served->control().Allow(1);
    return stopped.load();
  }));
  stopper.join();
  stream.join();
  EXPECT_TRUE(absl::IsUnavailable(heard.status)) << heard.status;
}

}  // namespace
}  // namespace mindforge
