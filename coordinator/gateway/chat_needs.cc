#include "coordinator/gateway/chat_needs.h"

#include <algorithm>

namespace mindforge {

bool NeedsTools(const v1::ChatMessages& chat) {
  return chat.tools_size() > 0 || std::any_of(chat.messages().begin(), chat.messages().end(),
                                              [](const v1::ChatMessage& message) {
                                                return message.tool_calls_size() > 0 ||
                                                       message.has_reasoning_content();
                                              });
}

}  // namespace mindforge
