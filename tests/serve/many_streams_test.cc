// A real (small, random) model behind the real server and the gateway: a hundred streams at once
// give what each gives alone.
#include <algorithm>
#include <filesystem>
#include <thread>

#include "common/mutex.h"
#include "coordinator/gateway/inference_gateway.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_folder.h"
#include "tests/fakes/temp_dir.h"
#include "tests/gateway/fake_desired_models.h"
#include "tests/serve/served.h"
#include "worker/serve/inference_server.h"

namespace mindforge {
namespace {

constexpr int kStreams = 100;
constexpr double kTolerance = 1e-4;

class ManyStreams : public ::testing::Test {
 protected:
  ManyStreams()
      : registry_(clock_, absl::Hours(1)),
        pool_(clock_, registry_, desired_, {}, nullptr),
        gateway_(pool_, streams_) {
    const std::string folder = folder_.File("small");
    std::filesystem::create_directory(folder);
    ModelConfig config;
    config.hidden_size = 64;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.max_position_embeddings = 256;
    WriteRandomModelFolder(folder, config, 7);
    const std::string tokenizer = std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/tokenizer";
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      std::filesystem::copy_file(tokenizer + "/" + name, folder + "/" + name);
    }
    v1::InferenceConfig settings;
    settings.set_model(folder);
    settings.set_listen("127.0.0.1:0");
    settings.set_metrics("127.0.0.1:0");
    settings.set_dtype("float32");
    settings.set_slots(32);
    settings.set_threads(2);
    settings.set_max_context(256);
    settings.set_prompt_style(v1::PROMPT_STYLE_COMPLETION);
    auto options = ReadInferenceOptions(settings);
    MF_CHECK_OK(options);
    auto worker = InferenceServer::Start(*options);
    MF_CHECK_OK(worker);
    worker_ = *std::move(worker);
    MF_CHECK_OK(worker_->WaitForModel());
    auto server = GrpcServer::Start({.listen = "127.0.0.1:0"}, {&gateway_});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
    auto channel = MakeChannel(server_->address());
    MF_CHECK_OK(channel);
    stub_ = v1::InferenceService::NewStub(*channel);
    Register();
  }

  void Register() {
    const std::shared_ptr<const ServedModel> model = worker_->host().Current().model;
    v1::InferenceAgentServiceSynchronizeRequest report;
    report.set_worker_id("w");
    report.set_address(worker_->address());
    report.set_deployment(model->deployment);
    report.set_weights_version(model->weights_version);
    report.set_numerics_id(model->numerics_id);
    report.set_ready(true);
    report.set_slots(32);
    registry_.Report(report);
  }

  static v1::GenerateRequest Request(int index) {
    v1::GenerateRequest request;
    request.set_text("moon " + std::to_string(index) +
                     (index % 2 == 0 ? " 明月光" : " over the sea"));
    request.mutable_sampling()->set_temperature(0.9);
    request.mutable_sampling()->set_seed(index);
    request.mutable_stopping()->set_max_new_tokens(8 + index % 17);
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_output()->set_logprobs(true);
    return request;
  }

  // Log-probabilities of `output` after request `index`'s prompt, computed as one prompt.
  std::vector<double> TeacherForced(int index, const std::vector<int32_t>& output) {
    v1::TokenizeRequest text;
    text.set_text(Request(index).text());
    text.set_add_bos(true);
    v1::TokenizeResponse prompt;
    grpc::ClientContext context;
    {
      MutexLock lock(tokenize_mutex_);  // one after the other: few may wait at once
      MF_CHECK(stub_->Tokenize(&context, text, &prompt).ok());
    }
    v1::GenerateUnaryRequest request;
    auto* ids = request.mutable_request()->mutable_token_ids();
    *ids->mutable_ids() = prompt.token_ids();
    ids->mutable_ids()->Add(output.begin(), output.end());
    request.mutable_request()->mutable_stopping()->set_max_new_tokens(1);
    request.mutable_request()->mutable_output()->set_prompt_logprobs(true);
    v1::GenerateUnaryResponse response;
    grpc::ClientContext other;
    const grpc::Status status = stub_->GenerateUnary(&other, request, &response);
    MF_CHECK(status.ok()) << status.error_message();
    std::vector<double> logprobs;
    const auto& all = response.started().prompt_logprobs();
    for (int i = prompt.token_ids_size() - 1; i < all.size(); ++i) {
      logprobs.push_back(all[i].logprob());
    }
    return logprobs;
  }

  // Runs `one` for each stream at once.
  template <typename One>
  static void AllAtOnce(One one) {
    std::vector<std::thread> threads;
    for (int i = 0; i < kStreams; ++i) threads.emplace_back([&one, i] { one(i); });
    for (std::thread& thread : threads) thread.join();
  }

  const RealClock clock_;
  TempDir folder_;
  std::unique_ptr<InferenceServer> worker_;
  FakeDesiredModels desired_;
  InferenceRegistry registry_;
  InferencePool pool_;
  OpenStreams streams_;
  InferenceGateway gateway_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  Mutex tokenize_mutex_;
};

TEST_F(ManyStreams, GiveTogetherWhatEachGivesAlone) {
  std::vector<Heard> together(kStreams);
  AllAtOnce([&](int i) { together[i] = Listen(*stub_, Request(i)); });
  std::vector<std::vector<double>> forced_together(kStreams);
  AllAtOnce([&](int i) { forced_together[i] = TeacherForced(i, together[i].ids()); });
  double worst = 0;
  for (int i = 0; i < kStreams; ++i) {
    ASSERT_TRUE(together[i].status.ok()) << together[i].status;
    const std::vector<int32_t> ids = together[i].ids();
    ASSERT_EQ(ids.size(), static_cast<size_t>(8 + i % 17));
    const std::vector<double> alone = TeacherForced(i, ids);
    ASSERT_EQ(alone.size(), ids.size());
    ASSERT_EQ(forced_together[i].size(), ids.size());
    size_t at = 0;
    for (const auto& delta : together[i].deltas()) {
      for (const auto& logprob : delta.logprobs()) {
        worst = std::max(worst, std::abs(logprob.logprob() - alone[at]));
        worst = std::max(worst, std::abs(forced_together[i][at] - alone[at]));
        ++at;
      }
    }
    EXPECT_EQ(at, ids.size());
    if (i % 10 == 0) {
      EXPECT_EQ(Listen(*stub_, Request(i)).ids(), ids) << "alone, the same seed";
    }
  }
  RecordProperty("largest_difference", std::to_string(worst));
  std::printf("largest difference of a log-probability: %.2e\n", worst);
  EXPECT_LE(worst, kTolerance);
}

}  // namespace
}  // namespace mindforge
