// Which inference worker takes a request: a pure function over what is known of them, so that every
// refusal can be tested word for word.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "coordinator/gateway/desired_models.h"
#include "coordinator/gateway/registry.h"

namespace mindforge {

struct ChooseInput {
  std::string model;  // the name in the request; empty: the only one there is
  std::vector<InferenceWorker> workers;
  std::vector<DeploymentView> deployments;
  std::map<WorkerId, int64_t> in_flight;  // requests that this gateway has with each
  std::set<WorkerId> suspects;            // failed a moment ago: taken when there is no other
  std::set<WorkerId> excluded;            // have already refused this request
  uint64_t turn = 0;                      // spreads requests over workers that are equally loaded
  // A continuation goes only where the same bits come out. Empty: any.
  std::string weights_version;
  std::string numerics_id;
  bool needs_tools = false;  // only those that render tools and reasoning
};

// The worker with the fewest requests for its slots among those that serve the model. NOT_FOUND: no
// such deployment. INVALID_ARGUMENT: no name, and several are served. UNAVAILABLE: nobody serves it
// now; the message says which, why and what to do.
absl::StatusOr<InferenceWorker> ChooseWorker(const ChooseInput& input);

}  // namespace mindforge
