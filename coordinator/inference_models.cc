#include "coordinator/inference_models.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
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
    : shell_(shell), subscription_(shell.WatchInference([&shell, views = views_, wake = wake_] {
        shell.Peek([&](const sched::State& state, const sched::Now&) { Refresh(state, *views); });
        MutexLock lock(wake->mutex);
        if (wake->call) wake->call();
      })) {
  shell.Peek([this](const sched::State& state, const sched::Now&) { Refresh(state, *views_); });
}

InferenceModels::~InferenceModels() { OnChange(nullptr); }

DesiredModelState InferenceModels::Report(const InferenceWorker& worker) {
  DesiredModelState desired;
  shell_.DoNow(sched::InferenceReport{NodeOf(worker)}, [&](const sched::State& state) {
    desired = DesiredOf(state, worker.id);
    Heard(state, worker);
  });
  return desired;
}

DesiredModelState InferenceModels::Desired(const WorkerId& id) {
  DesiredModelState desired;
  shell_.Peek(
      [&](const sched::State& state, const sched::Now&) { desired = DesiredOf(state, id); });
  return desired;
}

std::vector<DeploymentView> InferenceModels::Deployments() {
  MutexLock lock(views_->mutex);
  return views_->deployments;
}

void InferenceModels::Refresh(const sched::State& state, Views& views) {
  std::vector<DeploymentView> deployments;
  for (const auto& [name, deployment] : state.deployments) {
    deployments.push_back({name, sched::Describe(state, deployment).reason});
  }
  MutexLock lock(views.mutex);
  views.deployments.swap(deployments);
}

void InferenceModels::Heard(const sched::State& state, const InferenceWorker& worker) {
  const std::string said = absl::StrCat(worker.name, "\n", worker.deployment, "\n",
                                        worker.weights_version, "\n", worker.load_error_version,
                                        "\n", worker.load_error, worker.ready, worker.draining);
  {
    MutexLock lock(heard_mutex_);
    std::string& before = heard_[worker.id];
    if (before == said) return;
    before = said;
  }
  Refresh(state, *views_);
}

void InferenceModels::OnChange(std::function<void()> wake) {
  MutexLock lock(wake_->mutex);
  wake_->call = std::move(wake);
}

void InferenceModels::Gone(const std::vector<InferenceWorker>& workers) {
  for (const InferenceWorker& worker : workers) {
    shell_.DoNow(sched::InferenceGone{worker.id},
                 [this](const sched::State& state) { Refresh(state, *views_); });
    MutexLock lock(heard_mutex_);
    heard_.erase(worker.id);
  }
}

}  // namespace mindforge
