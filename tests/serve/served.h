// An inference service on a fake model, on port 0, with a client to it.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/grpc_client.h"
#include "common/grpc_server.h"
#include "common/grpc_status.h"
#include "common/open_streams.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "tests/fakes/eventually.h"
#include "tests/serve/echo_model_runner.h"
#include "worker/serve/inference_metrics.h"
#include "worker/serve/inference_service.h"

namespace mindforge {

constexpr int64_t kVocab = 6400;

// MiniMind's, loaded once.
inline std::shared_ptr<const Tokenizer> TestTokenizer() {
  static const auto* const tokenizer = new std::shared_ptr<const Tokenizer>([] {
    auto loaded = Tokenizer::Load(std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/tokenizer");
    MF_CHECK_OK(loaded);
    return *std::move(loaded);
  }());
  return *tokenizer;
}

inline std::shared_ptr<ServedModel> TestModel(const std::string& name, const std::string& version) {
  auto model = std::make_shared<ServedModel>();
  model->deployment = name;
  model->path = "/models/" + version;
  model->weights_version = version;
  model->tokenizer = TestTokenizer();
  model->chat_templates = ChatTemplates::Of({{"default", std::string(MiniMind2ChatTemplate())}});
  model->defaults.temperature = 0;  // as a folder with do_sample false says
  model->eos_ids = {2};
  model->config_json = "{\"hidden_size\":64}";
  model->parameter_count = 1000;
  model->rope_scaling.set_type("none");
  model->dtype = "float32";
  model->device = "cpu";
  model->numerics_id = "fake-1";
  model->vocab_size = kVocab;
  model->max_context = 256;
  return model;
}

inline v1::DesiredModel Desire(const std::string& name, const std::string& version) {
  v1::DesiredModel desired;
  desired.set_deployment(name);
  desired.set_path("/models/" + version);
  desired.set_weights_version(version);
  return desired;
}

struct ServedOptions {
  FakeModelOptions runner{.vocab_size = kVocab, .max_context = 256, .slots = 4};
  EngineOptions engine;
  GenerationLimits limits;
  StreamLimits streams;
  absl::Duration connection_idle = absl::Seconds(30);
  bool load = true;
  const Clock* clock = nullptr;  // null: the machine's; else outlives it
  std::function<void()> on_change;
  // Changes a model before it is served, or refuses it.
  std::function<absl::Status(ServedModel&)> adjust;
};

// A client whose window stays small, whatever the loopback could take: a reader that stops reading
// is soon felt.
inline std::unique_ptr<v1::InferenceService::Stub> NarrowStub(const std::string& address,
                                                              int window_bytes) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, window_bytes);
  return v1::InferenceService::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

class Served {
 public:
  explicit Served(ServedOptions options = {})
      : options_(std::move(options)), metrics_(registry_), streams_(options_.streams) {
    ModelHost::Options host;
    host.clock = options_.clock != nullptr ? options_.clock : &clock_;
    host.loader = [this](const v1::DesiredModel& desired) { return Load(desired); };
    host.engine = options_.engine;
    host.engine.clock = host.clock;
    host.observer = &metrics_;
    host.on_change = options_.on_change;
    host.retry_after = absl::Hours(1);
    host_ = std::make_unique<ModelHost>(std::move(host));
    service_ = std::make_unique<InferenceServiceImpl>(
        *host_, courier_, streams_,
        InferenceServiceImpl::Options{.worker_id = "w1", .limits = options_.limits});
    auto server = GrpcServer::Start(
        {.listen = "127.0.0.1:0", .connection_idle = options_.connection_idle}, {service_.get()});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
    auto channel = MakeChannel(server_->address());
    MF_CHECK_OK(channel);
    stub_ = v1::InferenceService::NewStub(*channel);
    metrics_.Watch(*host_);
    if (!options_.load) return;
    host_->SetDesired(Desire("poems", "v1"));
    MF_CHECK_OK(host_->WaitUntilSettled());
  }
  ~Served() {
    control_.Open();
    host_->Stop();
  }

  FakeModelControl& control() { return control_; }
  ModelHost& host() { return *host_; }
  InferenceServiceImpl& service() { return *service_; }
  GrpcServer& server() { return *server_; }
  OpenStreams& streams() { return streams_; }
  v1::InferenceService::Stub& stub() { return *stub_; }
  std::string Metrics() { return registry_.Text(); }
  // The value of a series as /metrics prints it, 0 when it is not there.
  double Metric(const std::string& series) {
    const std::string text = "\n" + Metrics();
    const size_t at = text.find("\nmindforge_" + series + " ");
    return at == std::string::npos ? 0
                                   : std::strtod(text.c_str() + text.find(' ', at) + 1, nullptr);
  }

 private:
  absl::StatusOr<LoadedModel> Load(const v1::DesiredModel& desired) {
    LoadedModel loaded;
    loaded.model = TestModel(desired.deployment(), desired.weights_version());
    loaded.model->path = desired.path();
    loaded.model->max_context = options_.runner.max_context;
    if (options_.adjust != nullptr) RETURN_IF_ERROR(options_.adjust(*loaded.model));
    loaded.runner = std::make_unique<EchoModelRunner>(options_.runner, &control_);
    return loaded;
  }

  const ServedOptions options_;
  const RealClock clock_;
  FakeModelControl control_;
  MetricsRegistry registry_{"test"};
  InferenceMetrics metrics_;
  Courier courier_;
  OpenStreams streams_;
  std::unique_ptr<ModelHost> host_;
  std::unique_ptr<InferenceServiceImpl> service_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

// A request for the fake model to say `script`, once unless max_new_tokens is changed.
inline v1::GenerateRequest Say(const std::vector<int32_t>& script) {
  v1::GenerateRequest request;
  for (int32_t id : EchoModelRunner::PromptFor(script)) {
    request.mutable_token_ids()->add_ids(id);
  }
  request.mutable_stopping()->set_max_new_tokens(static_cast<int32_t>(script.size()));
  return request;
}
inline v1::GenerateRequest Say(const std::string& text) {
  return Say(TestTokenizer()->Encode(text));
}

// What a stream delivered.
struct Heard {
  std::vector<v1::GenerateResponse> events;
  absl::Status status;

  const v1::GenerationStarted& started() const { return events.at(0).started(); }
  const v1::GenerationFinished& finished() const { return events.back().finished(); }
  std::vector<v1::GenerationDelta> deltas(int index = 0) const {
    std::vector<v1::GenerationDelta> found;
    for (const auto& event : events) {
      if (event.has_delta() && event.delta().index() == index) found.push_back(event.delta());
    }
    return found;
  }
  std::string text(int index = 0) const {
    std::string all;
    for (const auto& delta : deltas(index)) all += delta.text();
    return all;
  }
  std::vector<int32_t> ids(int index = 0) const {
    std::vector<int32_t> all;
    for (const auto& delta : deltas(index)) {
      all.insert(all.end(), delta.token_ids().begin(), delta.token_ids().end());
    }
    return all;
  }
};

inline Heard Listen(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request,
                    absl::Duration timeout = absl::Seconds(60)) {
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  const auto reader = stub.Generate(&context, request);
  Heard heard;
  for (v1::GenerateResponse event; reader->Read(&event);) heard.events.push_back(event);
  heard.status = FromGrpcStatus(reader->Finish());
  return heard;
}

}  // namespace mindforge
