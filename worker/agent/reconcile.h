// What an agent does next, as a pure function of what runs on its devices and what should.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "google/protobuf/repeated_ptr_field.h"
#include "mindforge/v1/worker_agent_service.pb.h"

namespace mindforge {

// One device as it is. An empty job: nothing runs and nothing ended there.
struct CurrentDevice {
  std::string device_id;
  std::string job_id;
  int64_t generation = 0;
  int rank = 0;
  bool exited =
      false;  // its trainer is gone; told to the coordinator until something else is wanted
  bool killed = false;        // SIGKILL is on its way
  bool joined = false;        // knows where its group meets
  int64_t stop_sequence = 0;  // newest stop order handed over
};

enum class ActionKind {
  kStart,   // a trainer as desired.start says
  kKill,    // the trainer on the device: it is not wanted any more
  kForget,  // a trainer that ended
  kJoin,    // hand over desired.rendezvous
  kStop,    // hand over desired.stop
};

struct Action {
  ActionKind kind = ActionKind::kStart;
  std::string device_id;
  std::string reason;  // in words, for the log
  v1::DesiredDevice desired;
};

// The actions, in the order to take them. A device that `desired` does not name stays as it is; one
// that is wanted for something else is first cleared and started once its trainer is gone, on a
// later call. While `draining` nothing is started.
std::vector<Action> Reconcile(const std::vector<CurrentDevice>& current,
                              const google::protobuf::RepeatedPtrField<v1::DesiredDevice>& desired,
                              bool draining);

}  // namespace mindforge
