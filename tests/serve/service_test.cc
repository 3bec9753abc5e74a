// Generation over gRPC: what a stream delivers, option by option.
#include <set>
#include <thread>

#include "common/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/serve/served.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const char kVerse[] = "床前明月光，疑是地上霜。 Café 😀 naïve.";

bool IsWholeUtf8(const std::string& text) { return SanitizeUtf8(text) == text; }

TEST(Generate, StreamsWhatTheModelSays) {
  Served served;
  const std::vector<int32_t> script = TestTokenizer()->Encode("moon over the river");
  const Heard heard = Listen(served.stub(), Say(script));
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  ASSERT_TRUE(heard.events.front().has_started());
  EXPECT_EQ(heard.started().prompt_tokens(), static_cast<int>(script.size()) + 1);
  EXPECT_EQ(heard.started().weights_version(), "v1");
  EXPECT_EQ(heard.started().numerics_id(), "fake-1");
  EXPECT_EQ(heard.started().worker_id(), "w1");
  EXPECT_EQ(heard.ids(), script);
  EXPECT_EQ(heard.text(), "moon over the river");
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(heard.finished().usage().output_tokens(), static_cast<int>(script.size()));
  EXPECT_GT(heard.finished().timings().total().nanos(), 0);
}

TEST(Generate, DeliversWholeCharactersOnly) {
  Served served;
  const std::vector<int32_t> script = TestTokenizer()->Encode(kVerse);
  const Heard heard = Listen(served.stub(), Say(script));
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  bool held_back = false;
  for (const auto& delta : heard.deltas()) {
    EXPECT_TRUE(IsWholeUtf8(delta.text())) << delta.text();
    held_back |= delta.text().empty();
  }
  EXPECT_TRUE(held_back) << "the text has no character of several tokens: it tests nothing";
  EXPECT_EQ(heard.text(), kVerse);
  EXPECT_EQ(heard.ids(), script);
}

TEST(Generate, EndsBeforeAStopStringThatSpansTokens) {
  Served served;
  v1::GenerateRequest request = Say(std::string("one two three four five"));
  request.mutable_stopping()->add_stop_strings("never");
  request.mutable_stopping()->add_stop_strings("o three fo");
  const Heard heard = Listen(served.stub(), request);
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.text(), "one tw");
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_STOP_STRING);
  EXPECT_EQ(heard.finished().usage().output_tokens(), static_cast<int>(heard.ids().size()));
}

TEST(Generate, DeliversTextThatOnlyLookedLikeAStopString) {
  Served served;
  v1::GenerateRequest request = Say(std::string("one two three"));
  request.mutable_stopping()->add_stop_strings("threefold");
  const Heard heard = Listen(served.stub(), request);
  EXPECT_EQ(heard.text(), "one two three");
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_LENGTH);
}

TEST(Generate, EndsAtEosAndAtStopTokensWithoutTheirText) {
  Served served;
  std::vector<int32_t> script = TestTokenizer()->Encode("one two");
  script.push_back(2);
  v1::GenerateRequest request = Say(script);
  request.mutable_stopping()->set_max_new_tokens(50);
  Heard heard = Listen(served.stub(), request);
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(heard.text(), "one two");
  EXPECT_EQ(heard.ids(), script);

  request.mutable_stopping()->add_stop_token_ids(script[1]);
  heard = Listen(served.stub(), request);
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_STOP_TOKEN);
  EXPECT_EQ(heard.ids(), std::vector<int32_t>(script.begin(), script.begin() + 2));

  request.mutable_stopping()->clear_stop_token_ids();
  request.mutable_stopping()->set_ignore_eos(true);
  heard = Listen(served.stub(), request);
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_THAT(heard.ids(), SizeIs(50));
}

TEST(Generate, DoesNotEndBeforeMinNewTokens) {
  Served served;
  std::vector<int32_t> script = TestTokenizer()->Encode("stop here");
  script.push_back(2);
  v1::GenerateRequest request = Say(script);
  request.mutable_stopping()->set_max_new_tokens(60);
  request.mutable_stopping()->set_min_new_tokens(20);
  request.mutable_stopping()->add_stop_strings("stop");
  const Heard heard = Listen(served.stub(), request);
  EXPECT_GE(heard.ids().size(), 20u);
  EXPECT_THAT(heard.text(), HasSubstr("stop here")) << "too early to count as a stop string";
}

TEST(Generate, GeneratesSeveralSequencesForOnePrompt) {
  Served served;
  v1::GenerateRequest request = Say(std::string("moon river"));
  request.mutable_sampling()->set_n(3);
  request.mutable_sampling()->set_temperature(5);
  request.mutable_sampling()->set_seed(7);
  request.mutable_stopping()->set_max_new_tokens(20);
  request.mutable_stopping()->set_ignore_eos(true);
  const Heard heard = Listen(served.stub(), request);
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  std::set<std::vector<int32_t>> different;
  int finished = 0;
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(heard.ids(i), SizeIs(20));
    different.insert(heard.ids(i));
  }
  for (const auto& event : heard.events) finished += event.has_finished();
  EXPECT_EQ(finished, 3);
  EXPECT_THAT(different, SizeIs(3));
  EXPECT_EQ(heard.started().seed(), 7u);
}

TEST(Generate, DrawsASeedWhereNoneIsGivenAndTellsIt) {
  Served served;
  v1::GenerateRequest request = Say(std::string("moon"));
  request.mutable_sampling()->set_temperature(5);
  request.mutable_stopping()->set_max_new_tokens(30);
  const Heard first = Listen(served.stub(), request);
  const Heard other = Listen(served.stub(), request);
  EXPECT_NE(first.started().seed(), other.started().seed());
  EXPECT_NE(first.ids(), other.ids());
  request.mutable_sampling()->set_seed(first.started().seed());
  EXPECT_EQ(Listen(served.stub(), request).ids(), first.ids());
}

TEST(Generate, GivesLogprobsOfOutputAndPrompt) {
  Served served;
  v1::GenerateRequest request = Say(std::string("moon river"));
  request.mutable_output()->set_top_logprobs(3);
  request.mutable_output()->set_prompt_logprobs(true);
  const Heard heard = Listen(served.stub(), request);
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  const int prompt = request.token_ids().ids_size();
  ASSERT_EQ(heard.started().prompt_logprobs_size(), prompt - 1);
  EXPECT_EQ(heard.started().prompt_logprobs(0).token_id(), request.token_ids().ids(1));
  EXPECT_EQ(heard.started().prompt_logprobs(0).token(),
            TestTokenizer()->TokenBytes(request.token_ids().ids(1)));
  // One logit of 10 among 6399 of 0.
  const double likely = 10 - std::log(std::exp(10) + 6399);
  for (const auto& delta : heard.deltas()) {
    ASSERT_EQ(delta.logprobs_size(), delta.token_ids_size());
    for (const auto& logprob : delta.logprobs()) {
      EXPECT_NEAR(logprob.logprob(), likely, 1e-4);
      ASSERT_EQ(logprob.top_size(), 3);
      EXPECT_EQ(logprob.top(0).token_id(), logprob.token_id());
      EXPECT_EQ(logprob.top(0).token(), logprob.token());
      EXPECT_FALSE(logprob.token().empty());
      EXPECT_NEAR(logprob.top(1).logprob(), likely - 10, 1e-4);
    }
  }
}

TEST(Generate, GathersTokensAsAskedAndLeavesIdsOut) {
  Served served;
  v1::GenerateRequest request = Say(std::string("one two three four five six seven eight"));
  request.mutable_stopping()->set_max_new_tokens(10);
  request.mutable_output()->set_flush_tokens(4);
  std::vector<size_t> sizes;
  for (const auto& delta : Listen(served.stub(), request).deltas()) {
    sizes.push_back(delta.token_ids_size());
  }
  EXPECT_THAT(sizes, ElementsAre(4, 4, 2));
  request.mutable_output()->set_token_ids(false);
  const Heard heard = Listen(served.stub(), request);
  EXPECT_TRUE(heard.ids().empty());
  EXPECT_FALSE(heard.text().empty());
}

TEST(Generate, GoesOnAfterWhatWasDelivered) {
  Served served;
  const std::vector<int32_t> script = TestTokenizer()->Encode(kVerse);
  const Heard whole = Listen(served.stub(), Say(script));
  for (size_t cut = 0; cut <= script.size(); ++cut) {
    v1::GenerateRequest request = Say(script);
    std::string before;
    size_t given = 0;
    for (const auto& delta : whole.deltas()) {
      if (given == cut) break;
      before += delta.text();
      given += delta.token_ids_size();
    }
    for (size_t i = 0; i < cut; ++i) request.add_resume_token_ids(script[i]);
    const Heard rest = Listen(served.stub(), request);
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_EQ(rest.ids(), std::vector<int32_t>(script.begin() + cut, script.end())) << cut;
    EXPECT_EQ(before + rest.text(), kVerse) << cut;
    EXPECT_EQ(rest.finished().usage().output_tokens(), static_cast<int>(script.size() - cut));
  }
}

TEST(Generate, KnowsThatAResumedSequenceWasOver) {
  Served served;
  v1::GenerateRequest request = Say(std::string("moon"));
  request.mutable_stopping()->set_max_new_tokens(10);
  request.add_resume_token_ids(request.token_ids().ids(1));
  request.add_resume_token_ids(2);
  const Heard heard = Listen(served.stub(), request);
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_TRUE(heard.started().prompt_tokens() > 0);
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_EOS);
  EXPECT_TRUE(heard.ids().empty());
  EXPECT_EQ(heard.finished().usage().output_tokens(), 0);
}

TEST(Generate, RendersTextAndChatAsTheModelWantsIt) {
  Served served({.adjust = [](ServedModel& model) {
    if (model.weights_version == "chat") model.prompt_style = v1::PROMPT_STYLE_CHAT;
    return absl::OkStatus();
  }});
  v1::GenerateRequest text;
  text.set_text("moon");
  text.mutable_stopping()->set_max_new_tokens(1);
  const auto length = [&](const v1::GenerateRequest& request) {
    const Heard heard = Listen(served.stub(), request);
    EXPECT_TRUE(heard.status.ok()) << heard.status;
    return heard.started().prompt_tokens();
  };
  const int with_bos = length(text);
  text.set_add_bos(false);
  EXPECT_EQ(length(text), with_bos - 1);
  v1::GenerateRequest chat = text;
  chat.clear_add_bos();
  auto* message = chat.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("moon");
  const int rendered = length(chat);
  EXPECT_GT(rendered, with_bos);
  served.host().SetDesired(Desire("poems", "chat"));
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  text.clear_add_bos();
  EXPECT_EQ(length(text), rendered) << "a chat deployment puts text into its template";
}

TEST(Generate, AnswersInOnePiece) {
  Served served;
  v1::GenerateUnaryRequest request;
  *request.mutable_request() = Say(std::string("moon over the river"));
  request.mutable_request()->mutable_sampling()->set_n(2);
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(60));
  v1::GenerateUnaryResponse response;
  const grpc::Status status = served.stub().GenerateUnary(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.started().weights_version(), "v1");
  ASSERT_EQ(response.results_size(), 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(response.results(i).index(), i);
    EXPECT_EQ(response.results(i).text(), "moon over the river");
    EXPECT_EQ(response.results(i).finished().reason(), v1::FINISH_REASON_LENGTH);
  }
}

TEST(Generate, ServesAHundredStreamsAtOnce) {
  Served served;
  std::vector<std::thread> threads;
  std::vector<Heard> heard(100);
  std::vector<std::vector<int32_t>> scripts;
  for (int i = 0; i < 100; ++i) {
    scripts.push_back(TestTokenizer()->Encode(std::to_string(i) + " 明月"));
  }
  for (int i = 0; i < 100; ++i) {
    threads.emplace_back([&, i] { heard[i] = Listen(served.stub(), Say(scripts[i])); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(heard[i].status.ok()) << heard[i].status;
    EXPECT_EQ(heard[i].ids(), scripts[i]);
  }
  EXPECT_EQ(served.Metric("requests_total{reason=\"length\"}"), 100);
  EXPECT_EQ(served.Metric("requests_running"), 0);
}

TEST(Tokenize, IsTheTokenizersAndBack) {
  Served served;
  v1::TokenizeRequest request;
  request.set_text(kVerse);
  request.set_add_bos(true);
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  ASSERT_TRUE(served.stub().Tokenize(&context, request, &response).ok());
  std::vector<int32_t> expected = TestTokenizer()->Encode(kVerse);
  expected.insert(expected.begin(), 1);
  EXPECT_EQ(std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end()),
            expected);
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = response.token_ids();
  back.set_skip_special_tokens(true);
  grpc::ClientContext other;
  v1::DetokenizeResponse text;
  ASSERT_TRUE(served.stub().Detokenize(&other, back, &text).ok());
  EXPECT_EQ(text.text(), kVerse);
}

TEST(GetModelInfo, SaysWhatIsServed) {
  Served served;
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(served.stub().GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.model(), "poems");
  EXPECT_EQ(info.weights_version(), "v1");
  EXPECT_EQ(info.vocab_size(), kVocab);
  EXPECT_EQ(info.max_context(), 256);
  EXPECT_EQ(info.prompt_style(), v1::PROMPT_STYLE_COMPLETION);
  EXPECT_THAT(info.config_json(), HasSubstr("hidden_size"));
  EXPECT_EQ(info.parameter_count(), 1000);
  EXPECT_EQ(info.prompt_style(), v1::PROMPT_STYLE_COMPLETION);
  EXPECT_FALSE(info.has_rope_scaling());
  EXPECT_EQ(info.lora_path(), "");
}

TEST(GetModelInfo, SaysHowTheModelWasAdapted) {
  Served served({.adjust = [](ServedModel& model) {
    model.prompt_style = v1::PROMPT_STYLE_CHAT;
    model.rope_scaling.set_type("yarn");
    model.rope_scaling.set_factor(8);
    model.lora_path = "/adapters/polite.pth";
    return absl::OkStatus();
  }});
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(served.stub().GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.prompt_style(), v1::PROMPT_STYLE_CHAT);
  EXPECT_EQ(info.rope_scaling().type(), "yarn");
  EXPECT_EQ(info.rope_scaling().factor(), 8);
  EXPECT_EQ(info.lora_path(), "/adapters/polite.pth");
}

}  // namespace
}  // namespace mindforge
