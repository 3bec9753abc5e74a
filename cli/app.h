// The command line's tree: which commands exist and what their flags are called.
#pragma once

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "cli/session.h"

namespace mindforge::cli {

// Where a command's parse callback leaves what is to be done.
struct Registry {
  CLI::App& app;
  Action action;  // of the command that was given
};

// Adds a command under `parent` whose action runs when it is the one given.
CLI::App* AddCommand(Registry& registry, CLI::App& parent, const std::string& name,
                     const std::string& help, Action action);
// Adds a word that only leads to commands ("job").
CLI::App* AddGroup(Registry& registry, const std::string& name, const std::string& help);

// One function a file, each adding one group of commands.
void AddJobCommands(Registry& registry);
void AddJobSubmitCommands(Registry& registry, CLI::App& job);
void AddJobStreamCommands(Registry& registry, CLI::App& job);
void AddWorkerCommands(Registry& registry);
void AddCheckpointCommands(Registry& registry);
void AddModelFileCommands(Registry& registry, CLI::App& checkpoint);
void AddModelCommands(Registry& registry);
void AddModelEvalCommand(Registry& registry, CLI::App& model);
void AddGenerateCommand(Registry& registry);
void AddChatCommand(Registry& registry);
void AddTokenizerCommands(Registry& registry);
void AddDoctorCommand(Registry& registry);
void AddCompletionCommand(Registry& registry);
void AddVersionCommand(Registry& registry);

// Runs the program: `arguments` without its name. Returns its exit status.
int Main(const std::vector<std::string>& arguments, Session& session);

}  // namespace mindforge::cli
