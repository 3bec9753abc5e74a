// `mindforge version`.
#include <string>

#include "cli/app.h"
#include "cli/json_output.h"
#include "common/version.h"

namespace mindforge::cli {

void AddVersionCommand(Registry& registry) {
  AddCommand(registry, registry.app, "version", "Print the version",
             [](Session& session) -> absl::StatusOr<ExitCode> {
               if (session.structured()) {
                 const nlohmann::ordered_json version = {{"program", "mindforge"},
                                                         {"version", std::string(kVersion)},
                                                         {"build", std::string(kBuildType)},
                                                         {"compiler", std::string(CompilerName())}};
                 PrintJson(session, version);
               } else if (session.options.output == OutputFormat::kName) {
                 session.out() << kVersion << "\n";
               } else {
                 session.out() << VersionLine("mindforge") << "\n";
               }
               return ExitCode::kOk;
             });
}

}  // namespace mindforge::cli
