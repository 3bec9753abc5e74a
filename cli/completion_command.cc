// `mindforge completion`: shell scripts made from the command tree itself, so that they never lag
// behind it.
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "cli/app.h"

namespace mindforge::cli {
namespace {

struct Word {
  std::string text;
  std::string help;
};

// One place in the command line: "job submit" and what may follow there.
struct Place {
  std::string path;
  std::vector<Word> words;  // commands and flags
  std::string names_from;   // the command that lists what its first argument can be
};

std::string NamesFrom(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_positional()) continue;
    if (option->get_name() == "JOB") return "job list";
    if (option->get_name() == "WORKER") return "worker list";
    if (option->get_name() == "NAME" && command.get_name() != "deploy") return "model list";
  }
  return "";
}

std::string OneLine(const std::string& help) {
  return absl::StrReplaceAll(help, {{"\n", " "}, {"'", ""}, {"[", "("}, {"]", ")"}, {":", ";"}});
}

void Collect(const CLI::App& app, const std::string& path, const std::vector<Word>& inherited,
             std::vector<Place>& places) {
  Place place = {.path = path, .words = {}, .names_from = NamesFrom(app)};
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    place.words.push_back({command->get_name(), OneLine(command->get_description())});
    Collect(*command, path.empty() ? command->get_name() : path + " " + command->get_name(),
            inherited, places);
  }
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      place.words.push_back({"--" + name, OneLine(option->get_description())});
    }
  }
  for (const Word& word : inherited) {
    if (!path.empty() && word.text != "--help" && word.text != "--version") {
      place.words.push_back(word);
    }
  }
  places.push_back(std::move(place));
}

std::vector<Place> CommandTree(const CLI::App& app) {
  std::vector<Word> global;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      global.push_back({"--" + name, OneLine(option->get_description())});
    }
  }
  std::vector<Place> places;
  Collect(app, "", global, places);
  return places;
}

std::string Words(const Place& place) {
  return absl::StrJoin(place.words, " ",
                       [](std::string* out, const Word& word) { absl::StrAppend(out, word.text); });
}

// The path of commands typed so far: every word that is no flag and continues a known path.
constexpr char kBashHead[] =
    R"bash(# bash completion for mindforge: source <(mindforge completion bash)
_mindforge() {
  local cur=${COMP_WORDS[COMP_CWORD]} path="" word next i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    [[ $word == -* ]] && continue
    next="${path:+$path }$word"
    [[ " $_mindforge_paths " == *" ${next// /_} "* ]] && path=$next
  done
  local words="" names=""
  case "$path" in
)bash";

std::string Bash(const std::vector<Place>& places) {
  std::string script = kBashHead;
  std::set<std::string> paths;
  for (const Place& place : places) {
    absl::StrAppend(&script, "    '", place.path, "') words='", Words(place), "'");
    if (!place.names_from.empty()) absl::StrAppend(&script, "; names='", place.names_from, "'");
    absl::StrAppend(&script, " ;;\n");
    if (!place.path.empty()) paths.insert(absl::StrReplaceAll(place.path, {{" ", "_"}}));
  }
  absl::StrAppend(&script, R"bash(  esac
  if [[ -n $names && $cur != -* ]]; then
    words+=" $(mindforge $names -o name --timeout 2s 2>/dev/null)"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ ${#COMPREPLY[@]} -eq 0 || ${COMP_WORDS[COMP_CWORD-1]} =~ ^(-f|--file|--data|--out|--path|--tokenizer|--tls-ca|--token-file)$ ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
_mindforge_paths=")bash",
                  absl::StrJoin(paths, " "), "\"\ncomplete -o filenames -F _mindforge mindforge\n");
  return script;
}

std::string Zsh(const std::vector<Place>& places) {
  return absl::StrCat(
      "#compdef mindforge\n# zsh completion: source <(mindforge completion zsh)\n"
      "autoload -U +X bashcompinit && bashcompinit\n",
      Bash(places));
}

std::string Fish(const std::vector<Place>& places) {
  std::string script =
      "# fish completion: mindforge completion fish | source\n"
      "function __mindforge_at\n"
      "  set -l words (string match -v -- '-*' (commandline -opc)[2..-1])\n"
      "  set -l want (string split ' ' -- \"$argv\")\n"
      "  test \"$argv\" = ''; and begin; test (count $words) -eq 0; return; end\n"
      "  test (count $words) -ge (count $want); or return 1\n"
      "  test \"$words[1..(count $want)]\" = \"$argv\"\n"
      "end\n";
  for (const Place& place : places) {
    const std::string at =
        absl::StrCat("complete -c mindforge -n \"__mindforge_at ", place.path, "\"");
    const bool group = !place.words.empty() && !absl::StartsWith(place.words[0].text, "-");
    for (const Word& word : place.words) {
      if (absl::StartsWith(word.text, "--")) {
        absl::StrAppend(&script, at, " -l ", word.text.substr(2), " -d '", word.help, "'\n");
      } else {
        absl::StrAppend(&script, at, " -f -a ", word.text, " -d '", word.help, "'\n");
      }
    }
    if (!group && !place.names_from.empty()) {
      absl::StrAppend(&script, at, " -f -a '(mindforge ", place.names_from,
                      " -o name --timeout 2s 2>/dev/null)'\n");
    }
  }
  return script;
}

}  // namespace

void AddCompletionCommand(Registry& registry) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* root = &registry.app;
  CLI::App* command =
      AddCommand(registry, registry.app, "completion", "Print a completion script for a shell",
                 [shell, root](Session& session) -> absl::StatusOr<ExitCode> {
                   const std::vector<Place> places = CommandTree(*root);
                   session.out() << (*shell == "bash"  ? Bash(places)
                                     : *shell == "zsh" ? Zsh(places)
                                                       : Fish(places));
                   return ExitCode::kOk;
                 });
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
}

}  // namespace mindforge::cli
