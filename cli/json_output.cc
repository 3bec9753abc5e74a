#include "cli/json_output.h"

#include <string>

namespace mindforge::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// Block style for what holds things, JSON (which is YAML) for the rest.
void PrintYaml(std::ostream& out, const Json& value, const std::string& indent) {
  for (const auto& [key, item] : value.items()) {
    const std::string head = value.is_array() ? "-" : key + ":";
    if (item.is_structured() && !item.empty()) {
      out << indent << head << "\n";
      PrintYaml(out, item, indent + "  ");
    } else {
      out << indent << head << " " << Dump(item, -1) << "\n";
    }
  }
}

}  // namespace

void PrintJson(Session& session, const Json& value) {
  if (session.options.output == OutputFormat::kYaml) {
    PrintYaml(session.out(), value, "");
  } else {
    session.out() << Dump(value, 2) << "\n";
  }
}

}  // namespace mindforge::cli
