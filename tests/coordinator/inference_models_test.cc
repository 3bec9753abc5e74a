// What the gateway knows of the deployments without asking the shell.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "tests/coordinator/service_fixture.h"
#include "tests/fakes/eventually.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

class InferenceModelsTest : public ServiceFixture {
 protected:
  InferenceModelsTest() {
    auto channel = MakeChannel(coordinator_->address());
    MF_CHECK_OK(channel);
    generate_ = v1::InferenceService::NewStub(*channel);
  }

  absl::Status Generate(const std::string& model) {
    grpc::ClientContext context;
    SetDeadline(context, kCallTimeout);
    v1::GenerateRequest request;
    request.set_model(model);
    request.set_text("moon");
    const auto reader = generate_->Generate(&context, request);
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
    }
    return FromGrpcStatus(reader->Finish());
  }

  void Deploy(const std::string& name) {
    v1::DeployModelRequest deploy;
    deploy.mutable_deployment()->set_name(name);
    deploy.mutable_deployment()->set_path("/model");
    deploy.set_request_id("deploy-" + name);
    v1::DeployModelResponse deployed;
    MF_CHECK_OK(Call(*deployments_, &v1::DeploymentService::Stub::DeployModel, deploy, &deployed));
  }
  // Why the deployment is in its state, as the shell says it.
  std::string Reason(const std::string& name) {
    v1::GetDeploymentRequest get;
    get.set_name(name);
    v1::GetDeploymentResponse got;
    MF_CHECK_OK(Call(*deployments_, &v1::DeploymentService::Stub::GetDeployment, get, &got));
    return got.deployment().reason();
  }

  std::unique_ptr<v1::InferenceService::Stub> generate_;
};

// What a Generate needs of the deployments is at hand: it neither describes them all nor waits for
// whoever has the shell.
TEST_F(InferenceModelsTest, AGenerateIsAnsweredWhileTheShellIsBusy) {
  Deploy("poems");
  const std::string reason = Reason("poems");
  ASSERT_FALSE(reason.empty());
  ASSERT_TRUE(Eventually([&] { return absl::IsUnavailable(Generate("poems")); }));

  absl::Notification held, go_on;
  std::thread holder([&] {
    coordinator_->shell().Peek([&](const sched::State&, const sched::Now&) {
      held.Notify();
      go_on.WaitForNotification();
    });
  });
  held.WaitForNotification();
  const absl::Status known = Generate("poems");
  const absl::Status unknown = Generate("prose");
  go_on.Notify();
  holder.join();
  EXPECT_EQ(GetReason(known), "NO_WORKER") << known;
  EXPECT_THAT(std::string(known.message()), HasSubstr(reason));
  EXPECT_EQ(GetReason(unknown), "MODEL_NOT_FOUND") << unknown;
}

TEST_F(InferenceModelsTest, AGenerateKnowsWhatHasBecomeOfADeployment) {
  Deploy("poems");
  const std::string alone = Reason("poems");
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(Generate("poems").message(), alone); }));

  v1::InferenceAgentServiceSynchronizeRequest report;
  report.set_worker_id("i");
  report.set_name("i");
  report.set_address("127.0.0.1:1");
  report.set_incarnation("one");
  report.set_no_park(true);
  v1::InferenceAgentServiceSynchronizeResponse desired;
  ASSERT_TRUE(
      Call(*inference_, &v1::InferenceAgentService::Stub::Synchronize, report, &desired).ok());
  const std::string loading = Reason("poems");
  EXPECT_NE(loading, alone);
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(Generate("poems").message(), loading); }));

  v1::DeleteDeploymentRequest remove;
  remove.set_name("poems");
  remove.set_request_id("r");
  v1::DeleteDeploymentResponse removed;
  ASSERT_TRUE(
      Call(*deployments_, &v1::DeploymentService::Stub::DeleteDeployment, remove, &removed).ok());
  EXPECT_TRUE(Eventually([&] { return GetReason(Generate("poems")) == "MODEL_NOT_FOUND"; }));
}

}  // namespace
}  // namespace mindforge
