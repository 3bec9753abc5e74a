#include "worker/tokenizer/chat_template.h"

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/tokenizer/chat_templates.h"
#include "worker/tokenizer/tokenizer.h"
#include "worker/tokenizer/tokenizer_json.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = ChatTemplate::Kind;

std::string DataPath(const std::string& name) {
  return JoinPath(std::getenv("MINDFORGE_TEST_DATA"), name);
}

std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& name) {
  auto tokenizer = Tokenizer::Load(DataPath(name));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string Render(Kind kind, const Chat& chat, const ChatRenderOptions& options = {}) {
  const auto rendered = ChatTemplate(kind).Render(chat, options);
  EXPECT_TRUE(rendered.ok()) << rendered.status();
  return rendered.ok() ? rendered->text : "";
}

std::vector<std::string> WrongFields(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  std::vector<std::string> fields;
  for (const FieldViolation& violation : GetViolations(status)) fields.push_back(violation.field);
  return fields;
}

TEST(ChatTemplate, RendersTheGoldenTexts) {
  const auto tokenizer = LoadTokenizer("tokenizer");
  const auto chat = ChatTemplate::Recognise(tokenizer->chat_templates().at("default"));
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->kind(), Kind::kMiniMind2);
  const auto content = ReadFile(DataPath("golden/tokenizer.json"), 1 << 24);
  ASSERT_TRUE(content.ok());
  const auto golden = nlohmann::json::parse(*content);
  ASSERT_GE(golden.at("chat").size(), 12u);
  for (const auto& example : golden["chat"]) {
    Chat asked;
    for (const auto& message : example["messages"]) {
      asked.messages.push_back({message["role"], message["content"]});
    }
    ChatRenderOptions options;
    if (!example["enable_thinking"].is_null()) {
      options.enable_thinking = example["enable_thinking"].get<bool>();
    }
    const auto rendered = chat->Render(asked, options);
    ASSERT_TRUE(rendered.ok()) << rendered.status();
    EXPECT_EQ(rendered->text, example["text"].get<std::string>());
  }
}

TEST(ChatTemplate, RecognisesTheSourceItWritesAndOneWithoutDefaultSystemLine) {
  const std::string source(MiniMind2ChatTemplate());
  EXPECT_TRUE(ChatTemplate::Recognise(source).ok());
  EXPECT_TRUE(ChatTemplate::Recognise(source + "\n").ok());
  std::string bare = source;
  const size_t begin = bare.find("{%- else -%}");
  const size_t end = bare.find("{%- endif %}", begin);
  ASSERT_NE(begin, std::string::npos);
  bare.erase(begin, end - begin);
  const auto chat = ChatTemplate::Recognise(bare);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->kind(), Kind::kMiniMind2NoSystem);
  EXPECT_EQ(Render(chat->kind(), {{{"user", "hi"}}}),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, RecognisesMiniMind3sAndOneThatWasReformatted) {
  std::string source = LoadTokenizer("tokenizer3")->chat_templates().at("default");
  auto chat = ChatTemplate::Recognise(source);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->kind(), Kind::kMiniMind3);
  for (size_t at = 0; (at = source.find("\n    ", at)) != source.npos;) source.erase(at + 1, 4);
  source.replace(source.find("message.role"), 12, "message['role']");
  chat = ChatTemplate::Recognise(source);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->kind(), Kind::kMiniMind3);
}

TEST(ChatTemplate, RefusesATemplateItDoesNotKnow) {
  const std::string known(MiniMind2ChatTemplate());
  const auto changed = [&](std::string_view from, std::string_view to) {
    std::string source = known;
    return source.replace(source.find(from), from.size(), to);
  };
  for (const std::string& source :
       {std::string("{{ messages }}"), std::string(), changed("helpful", "hostile"),
        changed("a helpful", "a  helpful"), changed("Tools\\n\\nYou", "Tools\\n\\n You"),
        known + " ", known + "\n\n\n", " " + known.substr(0, 1) + "%" + known.substr(3)}) {
    const auto chat = ChatTemplate::Recognise(source);
    EXPECT_EQ(chat.status().code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_THAT(std::string(chat.status().message()), HasSubstr("text"));
  }
}

// Expected texts from Jinja's own rendering of the published template; compare_chat_templates.py
// compares a thousand more.
TEST(ChatTemplate, RendersMiniMind3WithItsThinkBlocks) {
  EXPECT_EQ(Render(Kind::kMiniMind3, {{{"user", "q"}}}),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  EXPECT_EQ(Render(Kind::kMiniMind3, {{{"user", "q"}}}, {.enable_thinking = true}),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n");
  const ChatRenderOptions history{.add_generation_prompt = false};
  EXPECT_EQ(
      Render(Kind::kMiniMind3,
             {{{"system", "s"}, {"user", "q"}, {"assistant", "<think>\nhm\n</think>\n\na\n"}}},
             history),
      "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
      "<|im_start|>assistant\n<think>\nhm\n</think>\n\na\n<|im_end|>\n");
  EXPECT_EQ(Render(Kind::kMiniMind3, {{{"assistant", "\nplain"}}}, history),
            "<|im_start|>assistant\n<think>\n\n</think>\n\nplain<|im_end|>\n");
  // Reasoning that is given, even empty, leaves a think block in the content.
  EXPECT_EQ(Render(Kind::kMiniMind3, {{{"assistant", "a</think>b", ""}}}, history),
            "<|im_start|>assistant\n<think>\n\n</think>\n\na</think>b<|im_end|>\n");
}

TEST(ChatTemplate, RendersMiniMind3WithToolsCallsAndAnswers) {
  const Chat chat{.messages = {{"system", "s"},
                               {"user", "q"},
                               {"assistant", "\n", "hm", {{"f", "{\"x\": 1}"}, {"g", "{}"}}},
                               {"tool", "1"},
                               {"tool", "2"}},
                  .tools = {R"({"name":"f","parameters":{"x":1.0}})"}};
  EXPECT_EQ(
      Render(Kind::kMiniMind3, chat, {.add_generation_prompt = false}),
      "<|im_start|>system\ns\n\n# Tools\n\nYou may call one or more functions to assist with the "
      "user query.\n\nYou are provided with function signatures within <tools></tools> XML "
      "tags:\n<tools>\n{\"name\": \"f\", \"parameters\": {\"x\": 1.0}}\n</tools>\n\nFor each "
      "function call, return a json object with function name and arguments within "
      "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
      "<args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
      "<|im_start|>assistant\n<think>\nhm\n</think>\n\n\n<tool_call>\n{\"name\": \"f\", "
      "\"arguments\": {\"x\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": "
      "{}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n"
      "<tool_response>\n2\n</tool_response><|im_end|>\n");
}

TEST(ChatTemplate, SaysWhichStretchesTheChatBrought) {
  const auto rendered =
      ChatTemplate(Kind::kMiniMind3)
          .Render({{{"user", "question"}, {"assistant", "a", "why", {{"f", "{}"}}}}, {"{\"n\":1}"}},
                  {});
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  std::vector<std::string> written;
  for (const TextSpan& span : rendered->written) {
    written.push_back(rendered->text.substr(span.begin, span.end - span.begin));
  }
  EXPECT_THAT(written, ElementsAre("{\"n\": 1}", "question", "why", "a", "f", "{}"));
}

TEST(ChatTemplate, NamesABadMessage) {
  const ChatTemplate plain(Kind::kMiniMind2);
  const ChatTemplate full(Kind::kMiniMind3);
  EXPECT_THAT(WrongFields(plain.Render({}, {}).status()), ElementsAre("messages"));
  EXPECT_THAT(WrongFields(full.Render({{{"user", "a"}, {"robot", "b"}}}, {}).status()),
              ElementsAre("messages[1].role"));
  EXPECT_THAT(
      WrongFields(
          full.Render({{{"user", "a", "why"}, {"tool", "b", std::nullopt, {{"f", ""}}}}}, {})
              .status()),
      ElementsAre("messages[0].reasoning_content", "messages[1].tool_calls"));
  EXPECT_THAT(WrongFields(full.Render({{{"user", "a"}}, {"{}", "[1]"}}, {}).status()),
              ElementsAre("tools[1]"));
}

// Its Jinja source has lines for tools, copied from another model's; no release was trained on
// them.
TEST(ChatTemplate, MiniMind2RefusesByNameWhatItsModelsNeverSaw) {
  const Chat chat{.messages = {{"user", "a"},
                               {"assistant", "b", "why"},
                               {"assistant", "c", std::nullopt, {{"f", "{}"}}},
                               {"tool", "d"}},
                  .tools = {"{}"}};
  for (const Kind kind : {Kind::kMiniMind2, Kind::kMiniMind2NoSystem}) {
    const absl::Status status = ChatTemplate(kind).Render(chat, {}).status();
    EXPECT_THAT(WrongFields(status), ElementsAre("tools", "messages[1].reasoning_content",
                                                 "messages[2].tool_calls", "messages[3].role"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("MiniMind2's chat template"));
  }
}

TEST(ChatTemplate, MiniMind2TakesAnEmptyReasoningForNone) {
  const ChatTemplate plain(Kind::kMiniMind2);
  const auto with = plain.Render({{{"user", "a"}, {"assistant", "b", ""}}}, {});
  const auto without = plain.Render({{{"user", "a"}, {"assistant", "b"}}}, {});
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(with->text, without->text);
}

std::string Json(std::string_view source) { return nlohmann::json(source).dump(); }

// A folder's tokenizer_config.json with this chat_template.
ChatTemplates Listed(const std::string& chat_template) {
  const auto json = ReadFile(DataPath("tokenizer/tokenizer.json"), 1 << 24);
  EXPECT_TRUE(json.ok());
  const auto tokenizer =
      Tokenizer::FromJson(*json, absl::StrCat("{\"chat_template\": ", chat_template, "}"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return ChatTemplates::Of((*tokenizer)->chat_templates(), (*tokenizer)->chat_template_problem());
}

TEST(ChatTemplates, AListIsReadByName) {
  const std::string plain = Json(MiniMind2ChatTemplate());
  const std::string full = Json(LoadTokenizer("tokenizer3")->chat_templates().at("default"));
  const Chat without{.messages = {{"user", "a"}}};
  const Chat with{.messages = {{"user", "a"}}, .tools = {"{}"}};
  const ChatTemplates both =
      Listed(absl::StrCat(R"([{"name": "tool_use", "template": )", full,
                          R"(}, {"name": "default", "template": )", plain, "}]"));
  EXPECT_TRUE(both.status().ok()) << both.status();
  const auto rendered = both.Render(without, {});
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_THAT(rendered->text, HasSubstr("You are a helpful assistant"));
  const auto tools = both.Render(with, {});
  ASSERT_TRUE(tools.ok()) << tools.status();
  EXPECT_THAT(tools->text, HasSubstr("# Tools"));
}

TEST(ChatTemplates, AListWithoutDefaultSaysWhatItHas) {
  const ChatTemplates none = Listed(R"([{"name": "rag", "template": "x"}])");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.status().message()),
              testing::AllOf(HasSubstr("named rag"), HasSubstr("none named default")));
}

TEST(ChatTemplates, AnUnknownTemplateInAListIsRefused) {
  const ChatTemplates other = Listed(R"([{"name": "default", "template": "{{ messages }}"}])");
  EXPECT_THAT(std::string(other.Render({{{"user", "a"}}}, {}).status().message()),
              HasSubstr("not one of MiniMind's"));
}

TEST(ChatTemplates, AnObjectIsReadByName) {
  const std::string plain = Json(MiniMind2ChatTemplate());
  EXPECT_TRUE(Listed(absl::StrCat(R"({"rag": "x", "default": )", plain, "}")).status().ok());
}

// The tokenizer encodes and decodes all the same, and another template of the list renders.
TEST(ChatTemplates, WhatCannotBeReadIsRefusedForChatsAlone) {
  for (const char* const wrong : {R"([{"template": "a"}])", R"(["a"])", R"({"default": 1})", "7"}) {
    EXPECT_THAT(std::string(Listed(wrong).status().message()), HasSubstr("`chat_template` must be"))
        << wrong;
  }
  const std::string plain = Json(MiniMind2ChatTemplate());
  const ChatTemplates some =
      Listed(absl::StrCat(R"([{"template": "a"}, {"name": "default", "template": )", plain, "}]"));
  EXPECT_TRUE(some.Render({{{"user", "a"}}}, {}).ok()) << some.status();
}

}  // namespace
}  // namespace mindforge
