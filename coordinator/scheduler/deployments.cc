#include "coordinator/scheduler/deployments.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/checkpoints.h"
#include "coordinator/scheduler/commands.h"

namespace mindforge::sched {
namespace {

// Between a checkpoint's weights version and what makes adapted ones another.
constexpr char kAdapted = '+';

std::string BaseName(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  const size_t slash = path.find_last_of('/', end);
  return path.substr(slash == std::string::npos ? 0 : slash + 1,
                     end == std::string::npos ? 0 : end - slash);
}

std::vector<const InferenceNode*> NodesOf(const State& state, const std::string& deployment) {
  std::vector<const InferenceNode*> nodes;
  for (const auto& [id, node] : state.inference) {
    if (node.assigned == deployment) nodes.push_back(&node);
  }
  return nodes;
}

bool Serves(const InferenceNode& node, const std::string& deployment) {
  return node.deployment == deployment && !node.weights_version.empty();
}

// Drops seats that are no longer due, and lets workers that serve a deployment already take a seat
// from one that does not.
void KeepSeats(State& state) {
  std::map<std::string, int> taken;
  for (auto& [id, node] : state.inference) {
    const auto wanted = state.deployments.find(node.assigned);
    if (wanted == state.deployments.end() || node.draining) node.assigned.clear();
  }
  const auto seat = [&](bool serving_already) {
    for (auto& [id, node] : state.inference) {
      const std::string name = serving_already ? node.deployment : node.assigned;
      const auto wanted = state.deployments.find(name);
      if (wanted == state.deployments.end() || node.draining) continue;
      if (serving_already ? !Serves(node, name) || (!node.assigned.empty() && node.assigned != name)
                          : Serves(node, name)) {
        continue;
      }
      if (taken[name] < wanted->second.replicas) {
        ++taken[name];
        node.assigned = name;
      } else {
        node.assigned.clear();
      }
    }
  };
  seat(true);
  seat(false);
}

void FillSeats(State& state) {
  for (const auto& [name, deployment] : state.deployments) {
    int missing = deployment.replicas - static_cast<int>(NodesOf(state, name).size());
    for (auto& [id, node] : state.inference) {
      if (missing <= 0) break;
      if (!node.assigned.empty() || node.draining) continue;
      node.assigned = name;
      --missing;
    }
  }
}

std::string WhyNoWeights(const State& state, const Deployment& deployment) {
  const auto job = state.jobs.find(deployment.job);
  if (job == state.jobs.end()) return "its job is gone";
  const std::string name = InWords(job->second);
  if (deployment.step) {
    return absl::StrCat(name, " has no good checkpoint of step ", *deployment.step);
  }
  return absl::StrCat(name, " (", StateName(job->second.state), ") has no checkpoint yet");
}

bool ResolveJob(Context& c, Deployment& deployment) {
  if (deployment.job.empty()) return true;
  const Job* job = FindJob(c.state, deployment.job.value());
  if (job == nullptr) {
    c.out.status =
        CommandError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                     absl::StrCat("deployment.job.job: there is no job with the name or "
                                  "id '",
                                  deployment.job.value(), "': `mindforge job list` shows all"));
    return false;
  }
  deployment.job = job->id;
  if (!deployment.step) return true;
  const Checkpoint* checkpoint = FindCheckpoint(c.state, job->id, *deployment.step);
  if (checkpoint == nullptr || checkpoint->state != CheckpointState::kCommitted) {
    c.out.status =
        CommandError(absl::StatusCode::kNotFound, "CHECKPOINT_NOT_FOUND",
                     absl::StrCat("deployment.job.step: ", InWords(*job),
                                  " has no good checkpoint of step ", *deployment.step,
                                  ": `mindforge checkpoint list ", job->wish.name, "` shows all"));
    return false;
  }
  return true;
}

}  // namespace

void On(Context& c, const DeployModel& command) {
  c.out.name = command.deployment.name;
  if (Known(c, command.request)) return;
  Deployment deployment = command.deployment;
  if (!ResolveJob(c, deployment)) return;
  const auto existing = c.state.deployments.find(deployment.name);
  if (existing == c.state.deployments.end() && c.state.deployments.size() >= kMaxDeployments) {
    c.out.status = CommandError(absl::StatusCode::kResourceExhausted, "TOO_MANY_DEPLOYMENTS",
                                absl::StrCat(kMaxDeployments,
                                             " deployments exist already: delete "
                                             "one that is not needed"));
    return;
  }
  deployment.created_at = c.now.wall;
  c.out.changes.deployments.push_back(deployment);
  c.state.deployments[deployment.name] = std::move(deployment);
  Remember(c, command.request);
  c.state.reassign = true;
}

void On(Context& c, const DeleteDeployment& command) {
  if (Known(c, command.request)) return;
  if (c.state.deployments.erase(command.name) == 0) {
    c.out.status = CommandError(absl::StatusCode::kNotFound, "DEPLOYMENT_NOT_FOUND",
                                absl::StrCat("there is no deployment '", command.name,
                                             "': `mindforge model list` shows all"));
    return;
  }
  c.out.changes.deleted_deployments.push_back(command.name);
  Remember(c, command.request);
  c.state.reassign = true;
}

void On(Context& c, const InferenceReport& report) {
  InferenceNode& node = c.state.inference[report.node.id];
  if (node.id.empty()) node.desired_version = absl::ToUnixMicros(c.now.wall);
  const bool changed = node.id.empty() || node.deployment != report.node.deployment ||
                       node.weights_version != report.node.weights_version ||
                       node.draining != report.node.draining;
  InferenceNode updated = report.node;
  updated.assigned = std::move(node.assigned);
  updated.told_version = std::move(node.told_version);
  updated.told = std::move(node.told);
  updated.desired_version = node.desired_version;
  node = std::move(updated);
  if (changed) c.state.reassign = true;
}

void On(Context& c, const InferenceGone& event) {
  if (c.state.inference.erase(event.id) > 0) c.state.reassign = true;
}

void AssignInference(Context& c) {
  KeepSeats(c.state);
  FillSeats(c.state);
  for (auto& [id, node] : c.state.inference) {
    const std::optional<ModelOrder> order = ModelFor(c.state, id);
    node.told_version = order ? order->weights.version : "";
    const std::string told =
        order ? absl::StrCat(node.assigned, "\n", order->weights.version, "\n", order->weights.path,
                             "\n", order->deployment->prompt_style)
              : "";
    if (told == node.told) continue;
    node.told = told;
    ++node.desired_version;
    c.out.touched_inference = true;
  }
  // A version may have gone out of service: its folder can go now.
  std::set<JobId> followed;
  for (const auto& [name, deployment] : c.state.deployments) {
    if (!deployment.job.empty()) followed.insert(deployment.job);
  }
  for (const JobId& id : followed) {
    const auto job = c.state.jobs.find(id);
    if (job != c.state.jobs.end()) Retain(c, job->second);
  }
}

DesiredWeights WeightsOf(const State& state, const Deployment& deployment) {
  if (deployment.job.empty()) {
    // Deploying a path again loads it again: its content may have changed.
    return {deployment.path, absl::StrCat("path-", BaseName(deployment.path), "-",
                                          absl::Hex(absl::ToUnixMicros(deployment.created_at)))};
  }
  const Checkpoint* checkpoint = deployment.step
                                     ? FindCheckpoint(state, deployment.job, *deployment.step)
                                     : NewestCheckpoint(state, deployment.job);
  if (checkpoint == nullptr || checkpoint->state != CheckpointState::kCommitted) return {};
  std::string version = WeightsVersion(*checkpoint);
  // Each deploy of adapted weights names its own: the adapter's file may have changed.
  if (!deployment.load_options.empty()) {
    absl::StrAppend(&version, std::string(1, kAdapted),
                    absl::Hex(absl::ToUnixMicros(deployment.created_at)));
  }
  return {checkpoint->path, std::move(version)};
}

std::set<std::string> ServedVersions(const State& state) {
  std::set<std::string> served;
  // Adapted weights are loaded from the folder of those they are made of.
  const auto add = [&served](const std::string& version) {
    served.insert(version);
    served.insert(version.substr(0, version.rfind(kAdapted)));
  };
  for (const auto& [id, node] : state.inference) {
    add(node.weights_version);
    add(node.told_version);
  }
  for (const auto& [name, deployment] : state.deployments) {
    add(WeightsOf(state, deployment).version);
  }
  served.erase("");
  return served;
}

DeploymentStatus Describe(const State& state, const Deployment& deployment) {
  DeploymentStatus status;
  status.desired = WeightsOf(state, deployment);
  int ready = 0, newest = 0;
  std::string error;
  for (const InferenceNode* node : NodesOf(state, deployment.name)) {
    const bool serves = Serves(*node, deployment.name) && node->ready;
    const bool current = serves && node->weights_version == status.desired.version;
    const bool failed =
        !node->load_error.empty() && node->load_error_version == status.desired.version;
    ready += serves;
    newest += current;
    if (failed) error = absl::StrCat("worker ", node->name, ": ", node->load_error);
    status.replicas.push_back({node, failed    ? absl::StrCat("could not load: ", node->load_error)
                                     : current ? "serves what it should"
                                     : serves  ? "serves the version before, loads the newer one"
                                               : "loads"});
  }
  const int seats = static_cast<int>(status.replicas.size());
  if (status.desired.path.empty()) {
    status.reason = WhyNoWeights(state, deployment);
  } else if (seats == 0) {
    status.reason = state.inference.empty()
                        ? "no inference worker is registered: start mindforge-inference"
                        : "no inference worker is free: each serves another deployment";
  } else if (!error.empty()) {
    status.state = DeploymentState::kDegraded;
    status.reason = absl::StrCat(ready > 0 ? "the newest weights could not be loaded, the version "
                                             "before is served: "
                                           : "the weights could not be loaded: ",
                                 error);
  } else if (ready == 0) {
    status.state = DeploymentState::kLoading;
    status.reason = absl::StrCat(seats, seats == 1 ? " worker loads " : " workers load ",
                                 status.desired.version);
  } else {
    status.state = DeploymentState::kServing;
    status.reason = absl::StrCat(ready, " of ", deployment.replicas,
                                 deployment.replicas == 1 ? " replica is" : " replicas are",
                                 " ready, ", newest, " with ", status.desired.version);
  }
  return status;
}

std::optional<ModelOrder> ModelFor(const State& state, const WorkerId& worker) {
  const auto node = state.inference.find(worker);
  if (node == state.inference.end()) return std::nullopt;
  const auto deployment = state.deployments.find(node->second.assigned);
  if (deployment == state.deployments.end()) return std::nullopt;
  DesiredWeights weights = WeightsOf(state, deployment->second);
  if (weights.path.empty()) return std::nullopt;
  return ModelOrder{&deployment->second, std::move(weights)};
}

}  // namespace mindforge::sched
