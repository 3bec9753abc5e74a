// What is served where: which weights a deployment wants, which inference workers serve it, and how
// it stands in words.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

void On(Context& c, const DeployModel& command);
void On(Context& c, const DeleteDeployment& command);
void On(Context& c, const InferenceReport& report);
void On(Context& c, const InferenceGone& event);

// Gives inference workers to deployments and notes what they are told to load.
void AssignInference(Context& c);

// What a deployment should serve now.
DesiredWeights WeightsOf(const State& state, const Deployment& deployment);

// Weights versions that are served, about to be, or wanted: retention keeps their folders.
std::set<std::string> ServedVersions(const State& state);

struct Replica {
  const InferenceNode* node;
  std::string reason;
};
struct DeploymentStatus {
  DeploymentState state = DeploymentState::kWaiting;
  std::string reason;
  DesiredWeights desired;
  std::vector<Replica> replicas;
};
// How a deployment stands. The pointers are into `state`.
DeploymentStatus Describe(const State& state, const Deployment& deployment);

// What an inference worker should serve; null: nothing.
struct ModelOrder {
  const Deployment* deployment;
  DesiredWeights weights;
};
std::optional<ModelOrder> ModelFor(const State& state, const WorkerId& worker);

}  // namespace mindforge::sched
