#include "worker/tokenizer/chat_templates.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "worker/tokenizer/tokenizer_json.h"

namespace mindforge {
namespace {

using Sources = std::map<std::string, std::string>;

absl::StatusOr<ChatTemplate> RecogniseDefault(const Sources& sources, const std::string& problem) {
  if (const auto found = sources.find(kDefaultTemplate); found != sources.end()) {
    return ChatTemplate::Recognise(found->second);
  }
  if (!problem.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(problem, "; mend the model's tokenizer folder, or send the prompt as text"));
  }
  if (sources.empty()) return ChatTemplate::Recognise("");
  std::vector<std::string> names;
  for (const auto& [name, source] : sources) names.push_back(name);
  return absl::InvalidArgumentError(absl::StrCat(
      "the model's tokenizer folder has chat templates named ", absl::StrJoin(names, ", "),
      " but none named default; name the one to use `default` in tokenizer_config.json, or send "
      "the prompt as text"));
}

}  // namespace

ChatTemplates ChatTemplates::Of(const std::map<std::string, std::string>& sources,
                                const std::string& problem) {
  ChatTemplates templates(RecogniseDefault(sources, problem));
  if (const auto found = sources.find(kToolUseTemplate); found != sources.end()) {
    templates.tool_use_ = ChatTemplate::Recognise(found->second);
  }
  return templates;
}

absl::StatusOr<RenderedChat> ChatTemplates::Render(const Chat& chat,
                                                   const ChatRenderOptions& options) const {
  const bool with_tools = !chat.tools.empty() && tool_use_.has_value();
  const absl::StatusOr<ChatTemplate>& one = with_tools ? *tool_use_ : default_;
  RETURN_IF_ERROR(one.status());
  return one->Render(chat, options);
}

}  // namespace mindforge
