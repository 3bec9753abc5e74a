#include "coordinator/gateway/chooser.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error_details.h"
#include "common/strings.h"

namespace mindforge {
namespace {

std::vector<std::string> Names(const ChooseInput& input) {
  std::set<std::string> names;
  for (const DeploymentView& deployment : input.deployments) names.insert(deployment.name);
  for (const InferenceWorker& worker : input.workers) {
    if (!worker.deployment.empty()) names.insert(worker.deployment);
  }
  return {names.begin(), names.end()};
}

absl::StatusOr<std::string> ResolveName(const ChooseInput& input) {
  const std::vector<std::string> names = Names(input);
  if (!input.model.empty()) {
    if (std::find(names.begin(), names.end(), input.model) != names.end()) return input.model;
    return Error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND",
                 absl::StrCat("no model '", Truncate(input.model, 80), "' is deployed; there ",
                              names.empty()
                                  ? std::string("is none: deploy one with `mindforge model deploy`")
                                  : absl::StrCat("is ", absl::StrJoin(names, ", "),
                                                 DidYouMean(input.model, names))));
  }
  if (names.size() == 1) return names.front();
  if (names.empty()) {
    return Error(absl::StatusCode::kUnavailable, "NO_MODEL",
                 "no model is deployed; deploy one with `mindforge model deploy NAME --job JOB` or "
                 "`--path DIR`, then try again");
  }
  return InvalidArgument(
      "model", absl::StrCat("is empty and ", names.size(), " models are served; name one of ",
                            absl::StrJoin(names, ", ")));
}

absl::Status NobodyServes(const ChooseInput& input, const std::string& name) {
  std::string why;
  const auto deployment =
      std::find_if(input.deployments.begin(), input.deployments.end(),
                   [&](const DeploymentView& view) { return view.name == name; });
  if (deployment != input.deployments.end() && !deployment->reason.empty()) {
    why = deployment->reason;
  } else if (input.workers.empty()) {
    why = "no inference worker is connected";
  } else {
    why = absl::StrCat("none of the ", input.workers.size(), " inference workers has it ready");
  }
  for (const InferenceWorker& worker : input.workers) {
    if (worker.deployment == name && worker.draining) {
      absl::StrAppend(&why, "; ", worker.name, " is draining");
    } else if (worker.deployment == name && input.needs_tools && !worker.renders_tools) {
      absl::StrAppend(&why, "; ", worker.name,
                      " is of a build that knows no tools, tool_calls and reasoning_content: "
                      "upgrade it");
    } else if (!worker.load_error.empty()) {
      absl::StrAppend(&why, "; ", worker.name, ": ", Truncate(worker.load_error, 300));
    }
  }
  return Error(absl::StatusCode::kUnavailable, "NO_WORKER",
               absl::StrCat("model '", name, "' has no inference worker that could answer: ", why,
                            ". See `mindforge model get ", name,
                            "`; start one with `mindforge-inference`, or try again shortly"));
}

bool Serves(const InferenceWorker& worker, const std::string& name, const ChooseInput& input) {
  if (worker.deployment != name || !worker.ready || worker.draining) return false;
  if (input.excluded.contains(worker.id)) return false;
  if (input.needs_tools && !worker.renders_tools) return false;
  if (!input.weights_version.empty() && worker.weights_version != input.weights_version) {
    return false;
  }
  return input.numerics_id.empty() || worker.numerics_id == input.numerics_id;
}

}  // namespace

absl::StatusOr<InferenceWorker> ChooseWorker(const ChooseInput& input) {
  absl::StatusOr<std::string> name = ResolveName(input);
  if (!name.ok()) return name.status();
  std::vector<const InferenceWorker*> able;
  for (const InferenceWorker& worker : input.workers) {
    if (Serves(worker, *name, input)) able.push_back(&worker);
  }
  if (able.empty()) return NobodyServes(input, *name);
  // What this gateway has with a worker is exact; what the worker reported may be seconds old.
  const auto load = [&](const InferenceWorker& worker) {
    const auto mine = input.in_flight.find(worker.id);
    const double requests = mine == input.in_flight.end() ? 0 : static_cast<double>(mine->second);
    const double slots = static_cast<double>(std::max<int64_t>(worker.slots, 1));
    return std::make_tuple(input.suspects.contains(worker.id), requests / slots,
                           static_cast<double>(worker.requests_waiting) / slots);
  };
  std::rotate(able.begin(), able.begin() + static_cast<int64_t>(input.turn % able.size()),
              able.end());
  return **std::min_element(
      able.begin(), able.end(),
      [&](const InferenceWorker* a, const InferenceWorker* b) { return load(*a) < load(*b); });
}

}  // namespace mindforge
