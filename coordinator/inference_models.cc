#include "coordinator/inference_models.h"

#include <optional>
#include <utility>

#include "coordinator/rpc/convert.h"
#include "coordinator/scheduler/deployments.h"

namespace mindforge {
namespace {

DesiredModelState DesiredOf(const sched::State& state, const WorkerId& id) {
  DesiredModelState desired;
  const auto node = state.inference.find(id);
  // 1 is no microsecond of our time: a worker that is not known has never been given it.
  desired.version = node == state.inference.end() ? 1 : node->second.desired_version;
  const std::optional<sched::ModelOrder> order = sched::ModelFor(state, id);
  if (order) {
    v1::DesiredModel& model = desired.model.emplace();
    model.set_deployment(order->deployment->name);
    model.set_path(order->weights.path);
    model.set_weights_version(order->weights.version);
    model.set_prompt_style(static_cast<v1::PromptStyle>(order->deployment->prompt_style));
    FillLoadOptions(order->deployment->load_options, &model);
  }
  return desired;
}

sched::InferenceNode NodeOf(const InferenceWorker& worker) {
  sched::InferenceNode node;
  node.id = worker.id;
  node.name = worker.name;
  node.address = worker.address;
  node.deployment = worker.deployment;
  node.weights_version = worker.weights_version;
  node.ready = worker.ready;
  node.draining = worker.draining;
  node.load_error = worker.load_error;
  node.load_error_version = worker.load_error_version;
  return node;
}

}  // namespace

InferenceModels::InferenceModels(Shell& shell)
    : shell_(shell), subscription_(shell.WatchInference([wake = wake_] {
        MutexLock lock(wake->mutex);
        if (wake->call) wake->call();
      })) {}

InferenceModels::~InferenceModels() { OnChange(nullptr); }

DesiredModelState InferenceModels::Report(const InferenceWorker& worker) {
  DesiredModelState desired;
  shell_.DoNow(sched::InferenceReport{NodeOf(worker)},
               [&](const sched::State& state) { desired = DesiredOf(state, worker.id); });
  return desired;
}

DesiredModelState InferenceModels::Desired(const WorkerId& id) {
  DesiredModelState desired;
  shell_.Peek(
      [&](const sched::State& state, const sched::Now&) { desired = DesiredOf(state, id); });
  return desired;
}

std::vector<DeploymentView> InferenceModels::Deployments() {
  std::vector<DeploymentView> views;
  shell_.Peek([&](const sched::State& state, const sched::Now&) {
    for (const auto& [name, deployment] : state.deployments) {
      views.push_back({name, sched::Describe(state, deployment).reason});
    }
  });
  return views;
}

void InferenceModels::OnChange(std::function<void()> wake) {
  MutexLock lock(wake_->mutex);
  wake_->call = std::move(wake);
}

void InferenceModels::Gone(const std::vector<InferenceWorker>& workers) {
  for (const InferenceWorker& worker : workers) {
    shell_.DoNow(sched::InferenceGone{worker.id}, [](const sched::State&) {});
  }
}

}  // namespace mindforge
