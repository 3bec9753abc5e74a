// `mindforge checkpoint export` and `import`: models to and from other programs' files, in this
// process. The coordinator is asked only where a checkpoint lies.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/app.h"
#include "cli/json_output.h"
#include "cli/local_work.h"
#include "cli/rpc.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "mindforge/v1/checkpoint_service.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "worker/formats/checkpoint.h"
#include "worker/formats/export.h"
#include "worker/formats/import.h"

namespace mindforge::cli {
namespace {

struct ExportFlags {
  std::string job;
  std::optional<int64_t> step;
  std::string path;
  std::string format;
  std::string dtype;
  ExportOptions options;
};

struct ImportFlags {
  std::string dtype;
  ImportOptions options;
};

const std::map<std::string, ExportFormat>& Formats() {
  static const auto* const formats =
      new std::map<std::string, ExportFormat>{{"hf", ExportFormat::kHuggingFace},
                                              {"minimind", ExportFormat::kMinimind},
                                              {"pth", ExportFormat::kPth},
                                              {"gguf", ExportFormat::kGguf}};
  return *formats;
}

// Where the coordinator recorded the checkpoint.
absl::StatusOr<std::string> FetchPath(Session& session, const ExportFlags& flags) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = v1::CheckpointService::NewStub(channel);
  const std::string which = absl::StrCat("checkpoint ", *flags.step, " of job '", flags.job, "'");
  v1::GetCheckpointRequest request;
  request.set_job(flags.job);
  request.set_step(*flags.step);
  ASSIGN_OR_RETURN(const v1::GetCheckpointResponse response,
                   Call(session, {.what = "get " + which}, *stub,
                        &v1::CheckpointService::Stub::GetCheckpoint, request));
  const std::string& path = response.checkpoint().path();
  if (!PathExists(path)) {
    return absl::NotFoundError(absl::StrCat(
        which, " lies in ", path,
        ", which this machine does not see; run the command where the workers' storage "
        "is mounted, or name a copy of the folder with --path"));
  }
  return path;
}

absl::StatusOr<std::string> SourceOf(Session& session, const ExportFlags& flags) {
  if (!flags.path.empty()) {
    if (flags.job.empty()) return flags.path;
    return InvalidArgument("--path", "is given beside JOB; give one of the two");
  }
  if (flags.job.empty() || !flags.step.has_value()) {
    return InvalidArgument("JOB STEP",
                           "are missing; name a job and a step, or a folder with --path");
  }
  return FetchPath(session, flags);
}

void PrintResult(Session& session, const std::vector<std::string>& paths,
                 const std::vector<std::string>& notes, nlohmann::ordered_json result) {
  for (const std::string& note : notes) session.Note(note);
  if (session.structured()) {
    result["notes"] = notes;
    PrintJson(session, result);
    return;
  }
  for (const std::string& path : paths) session.out() << path << "\n";
}

absl::StatusOr<ExitCode> Export(Session& session, const ExportFlags& flags) {
  ExportOptions options = flags.options;
  const auto format = Formats().find(flags.format);
  if (format == Formats().end()) {
    return InvalidArgument(
        "--format", absl::StrCat("\"", flags.format, "\" is none of hf, minimind, pth and gguf"));
  }
  options.format = format->second;
  if (!flags.dtype.empty()) {
    ASSIGN_OR_RETURN(options.dtype, ParseWeightDType(flags.dtype));
  }
  if (options.name.empty() && (options.format == ExportFormat::kGguf || options.lora_only)) {
    options.name = flags.job;
  }
  ASSIGN_OR_RETURN(const std::string path, SourceOf(session, flags));
  ASSIGN_OR_RETURN(const auto work, LocalWork::Begin(session));
  if (PathExists(JoinPath(path, "MANIFEST.json"))) RETURN_IF_ERROR(VerifyCheckpoint(path));
  ASSIGN_OR_RETURN(const ExportResult result, ExportModel(path, options));
  PrintResult(session, result.paths, result.notes, {{"paths", result.paths}});
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Import(Session& session, const ImportFlags& flags) {
  ImportOptions options = flags.options;
  if (!flags.dtype.empty()) {
    ASSIGN_OR_RETURN(options.dtype, ParseWeightDType(flags.dtype));
  }
  if (!options.prompt_style.empty() && options.prompt_style != kCompletionStyle &&
      options.prompt_style != kChatStyle) {
    return InvalidArgument("--prompt-style", absl::StrCat("\"", options.prompt_style,
                                                          "\" is neither completion nor chat"));
  }
  ASSIGN_OR_RETURN(const auto work, LocalWork::Begin(session));
  ASSIGN_OR_RETURN(const ImportResult result, ImportModel(options));
  PrintResult(session, {options.out}, result.notes,
              {{"path", options.out},
               {"parameters", result.config.ParameterCount()},
               {"config", ModelConfigToJson(result.config)}});
  return ExitCode::kOk;
}

void AddExport(Registry& registry, CLI::App& checkpoint) {
  const auto flags = std::make_shared<ExportFlags>();
  CLI::App* command = AddCommand(registry, checkpoint, "export",
                                 "Write a checkpoint's model for transformers (hf), MiniMind's own "
                                 "code (minimind: a folder, pth) or llama.cpp (gguf)",
                                 [flags](Session& session) { return Export(session, *flags); });
  command->add_option("JOB", flags->job, "Name or id of the job");
  command->add_option("STEP", flags->step, "Step of the checkpoint");
  command->add_option("--path", flags->path, "A model folder instead (no server needed)")
      ->type_name("DIR");
  command->add_option("--format", flags->format, "hf, minimind, pth or gguf")->required();
  command
      ->add_option("--out", flags->options.out, "Folder to write (hf, minimind) or to write into")
      ->required()
      ->type_name("DIR");
  command->add_option("--dtype", flags->dtype,
                      "float32, float16 or bfloat16 (default: float32, for pth float16)");
  command->add_option("--name", flags->options.name,
                      "First part of the file's name (pth: pretrain or full_sft; gguf: the job)");
  command->add_flag("--lora-only", flags->options.lora_only,
                    "The LoRA adapters alone; without it they are merged");
  command->add_flag("--optimizer", flags->options.with_optimizer,
                    "pth: also ..._resume.pth, from which MiniMind's scripts go on");
  command->add_flag("--overwrite", flags->options.overwrite, "Replace what an export wrote before");
}

void AddImport(Registry& registry, CLI::App& checkpoint) {
  const auto flags = std::make_shared<ImportFlags>();
  ImportOptions& options = flags->options;
  CLI::App* command =
      AddCommand(registry, checkpoint, "import",
                 "Turn a .pth, Hugging Face folder or GGUF file into a model folder that init_from "
                 "and `model deploy --path` take (no server needed)",
                 [flags](Session& session) { return Import(session, *flags); });
  command->add_option("--from", options.from, "The file or folder")->required()->type_name("PATH");
  command->add_option("--out", options.out, "Folder to write")->required()->type_name("DIR");
  command->add_option("--tokenizer", options.tokenizer, "Folder with tokenizer.json, or that file")
      ->type_name("DIR");
  command->add_option("--dtype", flags->dtype,
                      "float32, float16 or bfloat16 (default: as it is stored)");
  command->add_option(
      "--prompt-style", options.prompt_style,
      "completion or chat (default: as the source says, or by the .pth file's name)");
  command->add_flag("--overwrite", options.overwrite, "Replace a model folder");
  ShapeHints& shape = options.shape;
  const std::string group = "What a bare .pth does not say";
  command->add_option("--config", shape.config_path, "A config.json that says it all")
      ->type_name("FILE")
      ->group(group);
  command->add_option("--num-attention-heads", shape.num_attention_heads, "Default 8")
      ->group(group);
  command->add_option("--max-position-embeddings", shape.max_position_embeddings, "Default 32768")
      ->group(group);
  command->add_option("--rope-theta", shape.rope_theta, "Default 1e6")->group(group);
  command->add_option("--rms-norm-eps", shape.rms_norm_eps, "Default 1e-5, with qk_norm 1e-6")
      ->group(group);
  command->add_option("--num-experts-per-tok", shape.num_experts_per_tok, "Default 2; MiniMind-3 1")
      ->group(group);
}

}  // namespace

void AddModelFileCommands(Registry& registry, CLI::App& checkpoint) {
  AddExport(registry, checkpoint);
  AddImport(registry, checkpoint);
}

}  // namespace mindforge::cli
