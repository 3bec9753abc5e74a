#include "cli/app.h"

#include <cstdlib>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/errors.h"
#include "common/duration.h"
#include "common/strings.h"
#include "common/version.h"

namespace mindforge::cli {
namespace {

const std::map<std::string, OutputFormat>& Formats() {
  static const auto* formats =
      new std::map<std::string, OutputFormat>{{"table", OutputFormat::kTable},
                                              {"wide", OutputFormat::kWide},
                                              {"json", OutputFormat::kJson},
                                              {"yaml", OutputFormat::kYaml},
                                              {"name", OutputFormat::kName}};
  return *formats;
}

void AddGlobalFlags(CLI::App& app, Session& session) {
  GlobalOptions& options = session.options;
  app.add_option("--server", options.server, "HOST:PORT of the coordinator")
      ->envname("MINDFORGE_SERVER")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  app.add_option_function<std::string>(
         "-o,--output",
         [&options](const std::string& name) {
           const auto found = Formats().find(name);
           if (found == Formats().end()) {
             throw CLI::ValidationError(
                 "--output",
                 absl::StrCat("'", name, "' is not one of table, wide, json, yaml, name"));
           }
           options.output = found->second;
         },
         "table, wide, json, yaml or name")
      ->type_name("FORMAT");
  app.add_option_function<std::string>(
         "--timeout",
         [&options](const std::string& text) {
           const auto timeout = ParseDuration(text);
           if (!timeout.ok() || *timeout == absl::ZeroDuration()) {
             throw CLI::ValidationError(
                 "--timeout", absl::StrCat("'", text, "' is no time: give one such as 30s or 5m"));
           }
           options.timeout = *timeout;
         },
         "Give the whole command up after so long (30s, 5m, 1h30m); exit status 124")
      ->type_name("DURATION");
  app.add_option("--tls-ca", options.tls_ca, "PEM file of the authority that signed the server")
      ->type_name("FILE");
  app.add_option("--token-file", options.token_file, "File whose first line is the bearer token")
      ->envname("MINDFORGE_TOKEN_FILE")
      ->type_name("FILE");
}

// CLI11 calls a mistyped command a missing one.
std::string What(const CLI::App& app, const CLI::App& at, const CLI::ParseError& error) {
  const std::vector<CLI::App*> commands =
      const_cast<CLI::App&>(at).get_subcommands([](const CLI::App*) { return true; });
  if (commands.empty()) return error.what();
  std::vector<std::string> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name());
  for (const std::string& word : app.remaining(/*recurse=*/true)) {
    if (word.empty() || word[0] == '-') continue;
    return absl::StrCat("there is no command '", word, "'", DidYouMean(word, names));
  }
  return absl::StrCat("a command is missing: ", absl::StrJoin(names, ", "));
}

// What CLI11 throws becomes text on the right stream and our exit status.
int Finish(const CLI::App& app, const CLI::ParseError& error, Session& session) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    app.exit(error, session.out(), session.err());
    return static_cast<int>(ExitCode::kOk);
  }
  const CLI::App* at = &app;
  std::string path = "mindforge";
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    absl::StrAppend(&path, " ", at->get_name());
  }
  session.err() << "mindforge: " << Styled(session.err_terminal(), Style::kBad, "error") << ": "
                << EscapeControls(What(app, *at, error)) << "\n  `" << path
                << " --help` shows what it takes.\n"
                << std::flush;
  return static_cast<int>(ExitCode::kUsage);
}

absl::StatusOr<ExitCode> RunAction(const Action& action, Session& session) {
  // LibTorch-free rooms do not throw, but the standard library does (bad_alloc, filesystem).
  try {
    return action(session);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("unexpected: ", error.what()));
  }
}

}  // namespace

CLI::App* AddCommand(Registry& registry, CLI::App& parent, const std::string& name,
                     const std::string& help, Action action) {
  CLI::App* command = parent.add_subcommand(name, help);
  command->footer("");
  command->callback([&registry, action = std::move(action)] { registry.action = action; });
  return command;
}

CLI::App* AddGroup(Registry& registry, const std::string& name, const std::string& help) {
  CLI::App* group = registry.app.add_subcommand(name, help);
  group->require_subcommand(1);
  group->footer("");
  return group;
}

int Main(const std::vector<std::string>& arguments, Session& session) {
  CLI::App app("Mindforge trains and serves MiniMind-class language models.", "mindforge");
  app.set_version_flag("--version", VersionLine("mindforge"));
  app.fallthrough();  // global flags also after the command
  app.require_subcommand(1);
  app.footer(
      "Exit status: 0 ok, 1 failed, 2 usage or a refused job file, 3 not found, 4 not allowed,\n"
      "5 server unavailable, 6 job failed, 7 job cancelled, 124 --timeout ran out,\n"
      "130 interrupted.");
  AddGlobalFlags(app, session);
  Registry registry{app, nullptr};
  AddJobCommands(registry);
  AddWorkerCommands(registry);
  AddCheckpointCommands(registry);
  AddModelCommands(registry);
  AddGenerateCommand(registry);
  AddChatCommand(registry);
  AddTokenizerCommands(registry);
  AddDoctorCommand(registry);
  AddCompletionCommand(registry);
  AddVersionCommand(registry);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return Finish(app, error, session);
  }
  session.StartClock();
  const absl::StatusOr<ExitCode> result = RunAction(registry.action, session);
  session.out() << std::flush;
  if (!result.ok()) {
    PrintError(session, result.status());
    return static_cast<int>(ExitCodeOf(result.status()));
  }
  if (!session.out()) {
    session.Note("error: cannot write to stdout: is the disk full, or its reader gone?");
    return static_cast<int>(ExitCode::kFailed);
  }
  return static_cast<int>(*result);
}

}  // namespace mindforge::cli
