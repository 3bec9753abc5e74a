#include "coordinator/rpc/deployment_service.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/requests.h"
#include "coordinator/rpc/validate_job.h"

namespace mindforge {
namespace {

constexpr int kMaxReplicas = 1024;
constexpr size_t kMaxPathBytes = 4096;

void CheckRopeScaling(const v1::RopeScalingSpec& rope, std::vector<FieldViolation>& problems) {
  const std::string field = "deployment.rope_scaling.";
  const bool none = rope.type() == "none";
  if (!none && rope.type() != "minimind" && rope.type() != "yarn") {
    problems.push_back({field + "type", absl::StrCat("is '", rope.type().substr(0, 100),
                                                     "', must be minimind, yarn or none")});
  }
  const auto at_least = [&](const char* name, bool has, double value, double low, bool above) {
    if (!has) return;
    if (none) {
      problems.push_back({field + name, "goes with minimind or yarn, not with none"});
    } else if (!std::isfinite(value) || value < low || (above && value == low)) {
      problems.push_back({field + name, absl::StrCat("is ", value, ", must be ",
                                                     above ? "more than " : "at least ", low)});
    }
  };
  at_least("factor", rope.has_factor(), rope.factor(), 1, false);
  at_least("original_max_position_embeddings", rope.has_original_max_position_embeddings(),
           static_cast<double>(rope.original_max_position_embeddings()), 1, false);
  at_least("beta_fast", rope.has_beta_fast(), rope.beta_fast(), 0, true);
  at_least("beta_slow", rope.has_beta_slow(), rope.beta_slow(), 0, true);
  at_least("attention_factor", rope.has_attention_factor(), rope.attention_factor(), 0, true);
}

bool IsAbsolutePath(const std::string& path) {
  return !path.empty() && path[0] == '/' && path.size() <= kMaxPathBytes &&
         path.find('\0') == std::string::npos;
}

// Its beginning, without what would end the message before its advice.
std::string InWords(const std::string& path) {
  return absl::StrCat("'", path.substr(0, std::min<size_t>(100, path.find('\0'))), "'",
                      path.find('\0') == std::string::npos ? "" : " with a zero byte");
}

std::vector<FieldViolation> Check(const v1::DeploymentSpec& spec) {
  std::vector<FieldViolation> problems;
  if (std::string problem = CheckName(spec.name()); !problem.empty()) {
    problems.push_back({"deployment.name", std::move(problem)});
  }
  if (spec.has_job()) {
    if (spec.job().job().empty()) {
      problems.push_back({"deployment.job.job", "is missing: give a job's name or id"});
    }
    if (spec.job().has_step() && spec.job().step() < 0) {
      problems.push_back(
          {"deployment.job.step", absl::StrCat("is ", spec.job().step(), ", must be at least 0")});
    }
  } else if (!spec.has_path()) {
    problems.push_back({"deployment.source", "is missing: give a job or a path"});
  } else if (!IsAbsolutePath(spec.path())) {
    problems.push_back(
        {"deployment.path", absl::StrCat("is ", InWords(spec.path()),
                                         ", must be the absolute path of a model folder")});
  }
  if (!spec.lora_path().empty() && !IsAbsolutePath(spec.lora_path())) {
    problems.push_back(
        {"deployment.lora_path",
         absl::StrCat("is ", InWords(spec.lora_path()),
                      ", must be the absolute path of a LoRA file (.pth or .safetensors)")});
  }
  if (spec.has_rope_scaling()) CheckRopeScaling(spec.rope_scaling(), problems);
  if (spec.has_replicas() && (spec.replicas() < 1 || spec.replicas() > kMaxReplicas)) {
    problems.push_back({"deployment.replicas", absl::StrCat("is ", spec.replicas(),
                                                            ", must be from 1 to ", kMaxReplicas)});
  }
  if (!v1::PromptStyle_IsValid(spec.prompt_style())) {
    problems.push_back(
        {"deployment.prompt_style", absl::StrCat("is ", static_cast<int>(spec.prompt_style()),
                                                 ", must be COMPLETION or CHAT")});
  }
  return problems;
}

absl::StatusOr<sched::Event> DeployOf(const v1::DeployModelRequest& request) {
  const v1::DeploymentSpec& spec = request.deployment();
  std::vector<FieldViolation> problems = Check(spec);
  absl::StatusOr<sched::Request> id = RequestOf("DeployModel", request.request_id(), request);
  for (FieldViolation& problem : GetViolations(id.status())) problems.push_back(problem);
  if (!problems.empty()) return InvalidArgument(problems, "INVALID_DEPLOYMENT");
  RETURN_IF_ERROR(id.status());
  sched::Deployment deployment;
  deployment.name = spec.name();
  deployment.job = JobId(spec.job().job());
  if (spec.job().has_step()) deployment.step = spec.job().step();
  deployment.path = spec.path();
  deployment.replicas = spec.has_replicas() ? spec.replicas() : 1;
  deployment.prompt_style = spec.prompt_style();
  deployment.load_options = LoadOptionsOf(spec);
  return sched::DeployModel{std::move(deployment), *std::move(id)};
}

absl::StatusOr<sched::Event> DeleteOf(const v1::DeleteDeploymentRequest& request) {
  ASSIGN_OR_RETURN(sched::Request id, RequestOf("DeleteDeployment", request.request_id(), request));
  return sched::DeleteDeployment{request.name(), std::move(id)};
}

}  // namespace

grpc::ServerUnaryReactor* DeploymentService::DeployModel(grpc::CallbackServerContext* context,
                                                         const v1::DeployModelRequest* request,
                                                         v1::DeployModelResponse* response) {
  return Mutate(context, core_, DeployOf(*request),
                [response](const sched::Outcome& outcome, const sched::State& state) {
                  const auto it = state.deployments.find(outcome.name);
                  if (it == state.deployments.end()) return DeploymentNotFound(outcome.name);
                  FillDeployment(state, it->second, response->mutable_deployment());
                  return absl::OkStatus();
                });
}

grpc::ServerUnaryReactor* DeploymentService::ListDeployments(
    grpc::CallbackServerContext* context, const v1::ListDeploymentsRequest* request,
    v1::ListDeploymentsResponse* response) {
  return Look(context, core_, [response](const sched::State& state) {
    for (const auto& [name, deployment] : state.deployments) {
      FillDeployment(state, deployment, response->add_deployments());
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DeploymentService::GetDeployment(grpc::CallbackServerContext* context,
                                                           const v1::GetDeploymentRequest* request,
                                                           v1::GetDeploymentResponse* response) {
  return Look(context, core_, [request, response](const sched::State& state) {
    const auto it = state.deployments.find(request->name());
    if (it == state.deployments.end()) return DeploymentNotFound(request->name());
    FillDeployment(state, it->second, response->mutable_deployment());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DeploymentService::DeleteDeployment(
    grpc::CallbackServerContext* context, const v1::DeleteDeploymentRequest* request,
    v1::DeleteDeploymentResponse* response) {
  return Mutate(context, core_, DeleteOf(*request),
                [](const sched::Outcome&, const sched::State&) { return absl::OkStatus(); });
}

}  // namespace mindforge
