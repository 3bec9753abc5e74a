// A gateway on port 0 with a client to it; fake workers are registered by the test.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "common/grpc_client.h"
#include "coordinator/gateway/inference_gateway.h"
#include "gtest/gtest.h"
#include "tests/gateway/fake_desired_models.h"
#include "tests/gateway/fake_worker.h"

namespace mindforge {

struct Heard {
  v1::GenerationStarted started;
  std::vector<int32_t> ids;
  std::string text;
  int finished = 0;
  v1::GenerationFinished end;
  absl::Status status;
};

class GatewayTest : public ::testing::Test {
 protected:
  GatewayTest()
      : registry_(clock_, absl::Hours(1)),
        pool_(clock_, registry_, desired_, {}, &metrics_),
        gateway_(pool_, streams_) {
    auto server = GrpcServer::Start({.listen = "127.0.0.1:0"}, {&gateway_});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
    auto channel = MakeChannel(server_->address());
    MF_CHECK_OK(channel);
    stub_ = v1::InferenceService::NewStub(*channel);
  }

  void Register(const FakeWorker& worker, const std::string& weights = "v1",
                const std::string& numerics = "n1", bool renders_tools = true) {
    v1::InferenceAgentServiceSynchronizeRequest report;
    report.set_worker_id(worker.name());
    report.set_name(worker.name());
    report.set_address(worker.address());
    report.set_deployment("poems");
    report.set_weights_version(weights);
    report.set_numerics_id(numerics);
    report.set_ready(true);
    report.set_renders_tools(renders_tools);
    report.set_slots(32);
    registry_.Report(report);
  }

  static v1::GenerateRequest Request(int tokens) {
    v1::GenerateRequest request;
    request.set_text("moon");
    request.mutable_stopping()->set_max_new_tokens(tokens);
    return request;
  }

  Heard Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(60));
    const auto reader = stub_->Generate(&context, request);
    Heard heard;
    for (v1::GenerateResponse event; reader->Read(&event);) {
      if (event.has_started()) heard.started = event.started();
      heard.text += event.delta().text();
      heard.ids.insert(heard.ids.end(), event.delta().token_ids().begin(),
                       event.delta().token_ids().end());
      heard.finished += event.has_finished();
      if (event.has_finished()) heard.end = event.finished();
    }
    heard.status = FromGrpcStatus(reader->Finish());
    return heard;
  }

  // The value of a series as /metrics prints it.
  double Metric(const std::string& series) {
    const std::string text = "\n" + metrics_.Text();
    const size_t at = text.find("\nmindforge_" + series + " ");
    return at == std::string::npos ? -1
                                   : std::strtod(text.c_str() + text.find(' ', at) + 1, nullptr);
  }
  double Continued() { return Metric("gateway_interrupted_streams_total{outcome=\"continued\"}"); }
  double Ended() { return Metric("gateway_interrupted_streams_total{outcome=\"ended\"}"); }

  static std::vector<int32_t> Numbers(int count) {
    std::vector<int32_t> ids;
    for (int i = 0; i < count; ++i) ids.push_back(100 + i);
    return ids;
  }

  const RealClock clock_;
  MetricsRegistry metrics_{"test"};
  FakeDesiredModels desired_;
  InferenceRegistry registry_;
  InferencePool pool_;
  OpenStreams streams_;
  InferenceGateway gateway_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace mindforge
