// `mindforge model`: what is served under which name.
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/key_values.h"
#include "cli/rpc.h"
#include "cli/table.h"
#include "common/error_details.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "mindforge/v1/deployment_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

using v1::DeploymentService;

constexpr absl::Duration kWaitPoll = absl::Milliseconds(250);

struct DeployFlags {
  std::string name;
  std::string job;
  std::optional<int64_t> step;
  std::string path;
  std::optional<int> replicas;
  std::string prompt_style;
  std::string lora;
  v1::RopeScalingSpec rope;  // no type: the folder's own
  bool wait = false;
};

Cell StateCell(v1::DeploymentState state) {
  std::string name = v1::DeploymentState_Name(state);
  if (name.empty()) name = absl::StrCat(static_cast<int>(state));
  name = std::string(absl::StripPrefix(name, "DEPLOYMENT_STATE_"));
  if (state == v1::DEPLOYMENT_STATE_SERVING) return {name, Style::kGood};
  return {name, state == v1::DEPLOYMENT_STATE_DEGRADED ? Style::kBad : Style::kWarn};
}

std::string Source(const v1::DeploymentSpec& spec) {
  if (!spec.has_job()) return spec.path();
  if (spec.job().has_step())
    return absl::StrCat("job ", spec.job().job(), " step ", spec.job().step());
  return absl::StrCat("job ", spec.job().job(), ", newest checkpoint");
}

std::string Prompts(const v1::DeploymentSpec& spec) {
  if (spec.prompt_style() == v1::PROMPT_STYLE_CHAT) return "chat";
  if (spec.prompt_style() == v1::PROMPT_STYLE_COMPLETION) return "completion";
  return "as the model says";
}

// "yarn, factor 8"; the numbers that were left open are the type's defaults.
std::string RopeScaling(const v1::RopeScalingSpec& rope) {
  std::string text = rope.type();
  if (rope.has_factor()) absl::StrAppend(&text, ", factor ", rope.factor());
  if (rope.has_original_max_position_embeddings()) {
    absl::StrAppend(&text, ", original context ", rope.original_max_position_embeddings());
  }
  if (rope.has_beta_fast()) absl::StrAppend(&text, ", beta_fast ", rope.beta_fast());
  if (rope.has_beta_slow()) absl::StrAppend(&text, ", beta_slow ", rope.beta_slow());
  if (rope.has_attention_factor()) {
    absl::StrAppend(&text, ", attention_factor ", rope.attention_factor());
  }
  return text;
}

std::string Ready(const v1::Deployment& deployment) {
  int ready = 0;
  for (const v1::DeploymentReplica& replica : deployment.replicas()) ready += replica.ready();
  const int wanted = deployment.spec().has_replicas() ? deployment.spec().replicas() : 1;
  return absl::StrCat(ready, "/", wanted);
}

void PrintDeployments(Session& session,
                      const google::protobuf::RepeatedPtrField<v1::Deployment>& deployments) {
  if (session.options.output == OutputFormat::kName) {
    for (const v1::Deployment& one : deployments) {
      session.out() << EscapeControls(one.spec().name()) << "\n";
    }
    return;
  }
  Table table({{.title = "NAME"},
               {.title = "STATE"},
               {.title = "READY", .right = true},
               {.title = "SOURCE", .shrinks = true},
               {.title = "STYLE", .wide_only = true},
               {.title = "WEIGHTS", .shrinks = true},
               {.title = "PATH", .wide_only = true},
               {.title = "REASON", .shrinks = true}});
  for (const v1::Deployment& one : deployments) {
    table.AddRow({one.spec().name(), StateCell(one.state()), Ready(one), Source(one.spec()),
                  Prompts(one.spec()), one.desired_weights_version(), one.desired_path(),
                  one.reason()});
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
}

void PrintDeployment(Session& session, const v1::Deployment& deployment) {
  if (session.structured()) {
    session.PrintMessage(deployment);
    return;
  }
  google::protobuf::RepeatedPtrField<v1::Deployment> one;
  *one.Add() = deployment;
  PrintDeployments(session, one);
}

void DescribeDeployment(Session& session, const v1::Deployment& one) {
  KeyValues lines;
  lines.Add("Name", one.spec().name());
  lines.Add("State", StateCell(one.state()).text);
  lines.Add("Reason", one.reason());
  lines.Add("Source", Source(one.spec()));
  lines.Add("Prompts", Prompts(one.spec()));
  if (!one.spec().lora_path().empty()) lines.Add("LoRA", one.spec().lora_path());
  if (one.spec().has_rope_scaling()) lines.Add("RoPE", RopeScaling(one.spec().rope_scaling()));
  lines.Add("Weights", one.desired_weights_version());
  lines.Add("Path", one.desired_path());
  lines.Add("Ready", Ready(one));
  lines.Print(session.out());
  if (one.replicas().empty()) return;
  session.out() << "\n";
  Table table({{.title = "WORKER"},
               {.title = "ADDRESS"},
               {.title = "READY"},
               {.title = "WEIGHTS", .shrinks = true},
               {.title = "REASON", .shrinks = true}});
  for (const v1::DeploymentReplica& replica : one.replicas()) {
    table.AddRow({replica.worker(), replica.address(), replica.ready() ? "yes" : "no",
                  replica.weights_version(), replica.reason()});
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
}

// As the inference workers see it, which may run in other folders.
std::string Absolute(Session& session, const std::string& flag, const std::string& path) {
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(path, error).lexically_normal().string();
  if (absolute != path) session.Note(absl::StrCat(flag, " ", path, " is ", absolute));
  return absolute;
}

absl::StatusOr<v1::DeploymentSpec> MakeSpec(Session& session, const DeployFlags& flags) {
  v1::DeploymentSpec spec;
  spec.set_name(flags.name);
  if (flags.job.empty() == flags.path.empty()) {
    return InvalidArgument("--job or --path", "give one of them: what the deployment serves");
  }
  if (!flags.job.empty()) {
    spec.mutable_job()->set_job(flags.job);
    if (flags.step.has_value()) spec.mutable_job()->set_step(*flags.step);
  } else {
    if (flags.step.has_value())
      return InvalidArgument("--step", "goes with --job, not with --path");
    spec.set_path(Absolute(session, "--path", flags.path));
  }
  if (flags.replicas.has_value()) spec.set_replicas(*flags.replicas);
  if (flags.prompt_style == "chat") spec.set_prompt_style(v1::PROMPT_STYLE_CHAT);
  if (flags.prompt_style == "completion") spec.set_prompt_style(v1::PROMPT_STYLE_COMPLETION);
  if (!flags.lora.empty()) spec.set_lora_path(Absolute(session, "--lora", flags.lora));
  if (!flags.rope.type().empty()) {
    *spec.mutable_rope_scaling() = flags.rope;
  } else if (flags.rope.ByteSizeLong() > 0) {
    return InvalidArgument("--rope-scaling", "is missing: say minimind or yarn with its numbers");
  }
  return spec;
}

absl::StatusOr<v1::Deployment> Fetch(Session& session, DeploymentService::Stub& stub,
                                     const std::string& name) {
  v1::GetDeploymentRequest request;
  request.set_name(name);
  ASSIGN_OR_RETURN(v1::GetDeploymentResponse response,
                   Call(session, {.what = absl::StrCat("get model '", name, "'")}, stub,
                        &DeploymentService::Stub::GetDeployment, request));
  return std::move(*response.mutable_deployment());
}

bool Loaded(const v1::Deployment& deployment) {
  for (const v1::DeploymentReplica& replica : deployment.replicas()) {
    if (replica.ready() && replica.weights_version() == deployment.desired_weights_version()) {
      return deployment.state() == v1::DEPLOYMENT_STATE_SERVING;
    }
  }
  return false;
}

// Until a worker serves what the deployment wants now; each new reason is told.
absl::StatusOr<v1::Deployment> WaitUntilServing(Session& session, DeploymentService::Stub& stub,
                                                v1::Deployment deployment) {
  std::string told;
  while (!Loaded(deployment)) {
    const std::string reason =
        absl::StrCat(StateCell(deployment.state()).text, ": ", deployment.reason());
    if (deployment.state() == v1::DEPLOYMENT_STATE_DEGRADED) {
      return absl::FailedPreconditionError(absl::StrCat(
          "model '", deployment.spec().name(), "' cannot be served: ", deployment.reason()));
    }
    if (reason != told) session.Note(absl::StrCat("waiting, ", reason));
    told = reason;
    if (!session.Pause(kWaitPoll)) {
      if (session.interrupted()) return absl::CancelledError("interrupted");
      return absl::DeadlineExceededError(absl::StrCat("--timeout ran out while waiting, ", reason));
    }
    ASSIGN_OR_RETURN(deployment, Fetch(session, stub, deployment.spec().name()));
  }
  return deployment;
}

absl::StatusOr<ExitCode> Deploy(Session& session, const DeployFlags& flags) {
  v1::DeployModelRequest request;
  ASSIGN_OR_RETURN(*request.mutable_deployment(), MakeSpec(session, flags));
  request.set_request_id(RandomUuid());
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = DeploymentService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::DeployModelResponse response,
                   Call(session,
                        {.what = absl::StrCat("deploy model '", flags.name, "'"),
                         .request_id = request.request_id()},
                        *stub, &DeploymentService::Stub::DeployModel, request));
  v1::Deployment deployment = response.deployment();
  if (flags.wait) {
    ASSIGN_OR_RETURN(deployment, WaitUntilServing(session, *stub, deployment));
  }
  PrintDeployment(session, deployment);
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> List(Session& session) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = DeploymentService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::ListDeploymentsResponse response,
                   Call(session, {.what = "list models"}, *stub,
                        &DeploymentService::Stub::ListDeployments, v1::ListDeploymentsRequest()));
  if (session.structured()) {
    session.PrintMessage(response);
    return ExitCode::kOk;
  }
  if (response.deployments().empty()) {
    session.Note("no models; deploy one with: mindforge model deploy NAME --job JOB");
  }
  PrintDeployments(session, response.deployments());
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Get(Session& session, const std::string& name) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = DeploymentService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::Deployment deployment, Fetch(session, *stub, name));
  if (session.structured() || session.options.output == OutputFormat::kName) {
    PrintDeployment(session, deployment);
  } else {
    DescribeDeployment(session, deployment);
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Delete(Session& session, const std::string& name) {
  v1::DeleteDeploymentRequest request;
  request.set_name(name);
  request.set_request_id(RandomUuid());
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = DeploymentService::NewStub(channel);
  ASSIGN_OR_RETURN(
      const v1::DeleteDeploymentResponse response,
      Call(session,
           {.what = absl::StrCat("delete model '", name, "'"), .request_id = request.request_id()},
           *stub, &DeploymentService::Stub::DeleteDeployment, request));
  if (session.structured()) {
    session.PrintMessage(response);
  } else {
    session.Note(absl::StrCat("model '", name, "' is deleted"));
  }
  return ExitCode::kOk;
}

void AddRopeFlags(CLI::App& deploy, const std::shared_ptr<DeployFlags>& flags) {
  deploy
      .add_option_function<std::string>(
          "--rope-scaling", [flags](const std::string& type) { flags->rope.set_type(type); },
          "minimind, yarn or none, instead of what the folder says")
      ->check(CLI::IsMember({"minimind", "yarn", "none"}));
  const auto real = [&](const char* name, const char* help,
                        void (v1::RopeScalingSpec::*set)(double)) {
    deploy
        .add_option_function<double>(
            name, [flags, set](double value) { (flags->rope.*set)(value); }, help)
        ->type_name("X");
  };
  real("--rope-factor", "How far the context is stretched (default: minimind 4, yarn 16)",
       &v1::RopeScalingSpec::set_factor);
  deploy
      .add_option_function<int64_t>(
          "--rope-original-max",
          [flags](int64_t n) { flags->rope.set_original_max_position_embeddings(n); },
          "The context that the model was trained on (default 2048)")
      ->type_name("N");
  real("--rope-beta-fast", "Default: minimind 4, yarn 32", &v1::RopeScalingSpec::set_beta_fast);
  real("--rope-beta-slow", "Default 1", &v1::RopeScalingSpec::set_beta_slow);
  real("--rope-attention-factor", "yarn: of cos and sin (default 1)",
       &v1::RopeScalingSpec::set_attention_factor);
}

}  // namespace

void AddModelCommands(Registry& registry) {
  CLI::App* group = AddGroup(registry, "model", "What is served under which name");
  const auto flags = std::make_shared<DeployFlags>();
  CLI::App* deploy = AddCommand(registry, *group, "deploy", "Serve a job's checkpoints or a folder",
                                [flags](Session& session) { return Deploy(session, *flags); });
  deploy->add_option("NAME", flags->name, "[a-z0-9-], at most 63")->required();
  deploy->add_option("--job", flags->job, "The newest checkpoint of this job, as it changes");
  deploy->add_option("--step", flags->step, "With --job: this step and no newer one")
      ->type_name("N");
  deploy->add_option("--path", flags->path, "A model folder that the inference workers see")
      ->type_name("DIR");
  deploy->add_option("--replicas", flags->replicas, "Inference workers that serve it (default 1)")
      ->type_name("N");
  deploy
      ->add_option("--prompt-style", flags->prompt_style,
                   "completion or chat (default: as the model says)")
      ->check(CLI::IsMember({"completion", "chat"}));
  deploy
      ->add_option("--lora", flags->lora,
                   "A LoRA file (.pth or .safetensors) that is merged into the weights")
      ->type_name("FILE");
  AddRopeFlags(*deploy, flags);
  deploy->add_flag("--wait", flags->wait, "Wait until it is served");
  AddCommand(registry, *group, "list", "List models", List);
  const auto name = std::make_shared<std::string>();
  CLI::App* get = AddCommand(registry, *group, "get", "Show a model and who serves it",
                             [name](Session& session) { return Get(session, *name); });
  get->add_option("NAME", *name, "Name of the model")->required();
  CLI::App* remove = AddCommand(registry, *group, "delete", "Serve a model no longer",
                                [name](Session& session) { return Delete(session, *name); });
  remove->add_option("NAME", *name, "Name of the model")->required();
  AddModelEvalCommand(registry, *group);
}

}  // namespace mindforge::cli
