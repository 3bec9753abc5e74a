#include "worker/tokenizer/chat_template.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "common/durable_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;
using Kind = ChatTemplate::Kind;

std::string Render(Kind kind, const std::vector<ChatMessage>& messages,
                   const ChatRenderOptions& options = {}) {
  const auto text = ChatTemplate(kind).Render(messages, options);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

TEST(ChatTemplate, RendersTheGoldenTexts) {
  const std::string data = std::getenv("MINDFORGE_TEST_DATA");
  const auto tokenizer = Tokenizer::Load(JoinPath(data, "tokenizer"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto chat = ChatTemplate::Recognise((*tokenizer)->chat_template());
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->kind(), Kind::kMiniMind2);
  const auto content = ReadFile(JoinPath(data, "golden/tokenizer.json"), 1 << 24);
  ASSERT_TRUE(content.ok());
  const auto golden = nlohmann::json::parse(*content);
  ASSERT_GE(golden.at("chat").size(), 12u);
  for (const auto& example : golden["chat"]) {
    std::vector<ChatMessage> messages;
    for (const auto& message : example["messages"]) {
      messages.push_back({message["role"], message["content"]});
    }
    ChatRenderOptions options;
    if (!example["enable_thinking"].is_null()) {
      options.enable_thinking = example["enable_thinking"].get<bool>();
    }
    const auto text = chat->Render(messages, options);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, example["text"].get<std::string>());
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
  EXPECT_EQ(Render(chat->kind(), {{"user", "hi"}}),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, RefusesATemplateItDoesNotKnow) {
  std::string changed(MiniMind2ChatTemplate());
  changed.replace(changed.find("helpful"), 7, "hostile");
  for (const std::string& source : {std::string("{{ messages }}"), changed, std::string()}) {
    const auto chat = ChatTemplate::Recognise(source);
    EXPECT_EQ(chat.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(chat.status().message()), HasSubstr("text"));
  }
}

// Expected texts from Jinja's own rendering of the published template.
TEST(ChatTemplate, RendersMiniMind3WithItsThinkBlocks) {
  EXPECT_EQ(Render(Kind::kMiniMind3, {{"user", "q"}}),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  EXPECT_EQ(Render(Kind::kMiniMind3, {{"user", "q"}}, {.enable_thinking = true}),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n");
  EXPECT_EQ(Render(Kind::kMiniMind3,
                   {{"system", "s"}, {"user", "q"}, {"assistant", "<think>\nhm\n</think>\n\na\n"}},
                   {.add_generation_prompt = false}),
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
            "<|im_start|>assistant\n<think>\nhm\n</think>\n\na\n<|im_end|>\n");
  EXPECT_EQ(Render(Kind::kMiniMind3, {{"assistant", "\nplain"}}, {.add_generation_prompt = false}),
            "<|im_start|>assistant\n<think>\n\n</think>\n\nplain<|im_end|>\n");
}

TEST(ChatTemplate, NamesABadMessage) {
  const ChatTemplate chat(Kind::kMiniMind2);
  EXPECT_EQ(chat.Render({}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  const auto tool = chat.Render({{"user", "a"}, {"tool", "b"}}, {});
  EXPECT_EQ(tool.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tool.status().message()),
              testing::AllOf(HasSubstr("messages[1].role"), HasSubstr("tools are not supported")));
}

}  // namespace
}  // namespace mindforge
