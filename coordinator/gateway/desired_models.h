// What the gateway asks of whoever decides which deployment runs where (the coordinator's shell).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/ids.h"
#include "coordinator/gateway/registry.h"
#include "mindforge/v1/inference_agent_service.pb.h"

namespace mindforge {

// What one inference worker should serve.
struct DesiredModelState {
  std::optional<v1::DesiredModel> model;  // unset: nothing
  // Another number whenever `model` is another one for this worker. Never 0. Start it at something
  // that differs from run to run (the wall clock in microseconds), so that a worker that knows a
  // version of an earlier run is answered at once.
  int64_t version = 0;
};

// A deployment as callers of Generate need to know it.
struct DeploymentView {
  std::string name;
  std::string reason;  // why it is in its state, in words: "no inference worker is free"
};

// The desired state of inference workers. Thread-safe; every method returns at once, so they are
// called from gRPC's threads.
class DesiredModels {
 public:
  virtual ~DesiredModels() = default;

  // `worker` has just reported; the registry holds it already. Returns what it should serve.
  virtual DesiredModelState Report(const InferenceWorker& worker) = 0;

  // What a worker that is parked should serve now.
  virtual DesiredModelState Desired(const WorkerId& id) = 0;

  // All deployments, by name.
  virtual std::vector<DeploymentView> Deployments() = 0;

  // Keeps `wake`, which is to be called after any worker's desired state changed: parked calls are
  // looked at again and those with a new version answered. Called once, at start, with a function
  // that is cheap and safe from any thread; call it without a lock that Desired takes. An empty
  // function ends it: when that call returns, the old one is not running and never runs again.
  virtual void OnChange(std::function<void()> wake) = 0;
};

}  // namespace mindforge
