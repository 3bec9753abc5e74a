// Helper of compare_chat_templates.py:
//   render_chats TOKENIZER FILE
// Each line of FILE is a chat as JSON (messages, tools as texts, add_generation_prompt,
// enable_thinking, parse_special_tokens); each line printed is {"text", "ids"} or {"error"}.
#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/tokenizer/chat_templates.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

Chat ReadChat(const Json& json) {
  Chat chat;
  for (const Json& one : json.at("messages")) {
    ChatMessage message{.role = one.at("role"), .content = one.at("content")};
    if (one.contains("reasoning_content")) message.reasoning_content = one["reasoning_content"];
    for (const Json& call : one.value("tool_calls", Json::array())) {
      message.tool_calls.push_back({call.at("name"), call.at("arguments")});
    }
    chat.messages.push_back(std::move(message));
  }
  for (const Json& tool : json.value("tools", Json::array())) chat.tools.push_back(tool);
  return chat;
}

Json Render(const Tokenizer& tokenizer, const ChatTemplates& templates, const Json& json) {
  ChatRenderOptions options{.add_generation_prompt = json.at("add_generation_prompt")};
  if (!json.at("enable_thinking").is_null()) options.enable_thinking = json["enable_thinking"];
  const auto rendered = templates.Render(ReadChat(json), options);
  if (!rendered.ok()) return {{"error", std::string(rendered.status().message())}};
  const std::vector<int32_t> ids =
      json.at("parse_special_tokens").get<bool>()
          ? tokenizer.Encode(rendered->text)
          : tokenizer.EncodeWithPlain(rendered->text, rendered->written);
  return {{"text", rendered->text}, {"ids", ids}};
}

int Run(const char* folder, const char* path) {
  const auto tokenizer = Tokenizer::Load(folder);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  const ChatTemplates templates = ChatTemplates::Of((*tokenizer)->chat_templates());
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::cout << Render(**tokenizer, templates, Json::parse(line)).dump() << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  if (argc == 3) return mindforge::Run(argv[1], argv[2]);
  std::cerr << "usage: render_chats TOKENIZER FILE\n";
  return 2;
}
