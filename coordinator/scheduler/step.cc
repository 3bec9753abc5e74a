#include "coordinator/scheduler/step.h"

#include "coordinator/scheduler/commands.h"
#include "coordinator/scheduler/context.h"
#include "coordinator/scheduler/deployments.h"
#include "coordinator/scheduler/expiries.h"
#include "coordinator/scheduler/report.h"
#include "coordinator/scheduler/schedule.h"

namespace mindforge::sched {
namespace {

void On(Context& c, const Tick&) {}
void On(Context& c, const Stalled&) {}  // done before silence is looked at

// Placement may free devices (a job that is done already) and so call for another pass; a job is
// placed at most once a pass, so a few settle it.
constexpr int kPasses = 4;

}  // namespace

Outcome Step(State& state, const Now& now, const Event& event) {
  Outcome out;
  Context c{state, now, out, {}, {}, {}};
  // Words that have arrived count before silence does, and a stall is nobody's silence.
  if (const auto* stalled = std::get_if<Stalled>(&event)) RenewLeases(c, *stalled);
  if (const auto* report = std::get_if<WorkerReport>(&event)) {
    const auto worker = state.workers.find(report->worker.id);
    // Those of an agent that was replaced say nothing of the one that took its place.
    if (worker != state.workers.end() && !worker->second.lost && !IsReplaced(state, *report)) {
      worker->second.lease_from = now.mono;
    }
  }
  RunExpiries(c);
  std::visit([&](const auto& e) { On(c, e); }, event);
  for (int pass = 0; pass < kPasses && (state.reschedule || state.reassign); ++pass) {
    if (state.reschedule) {
      state.reschedule = false;
      PlaceQueued(c);
    }
    if (state.reassign) {
      state.reassign = false;
      AssignInference(c);
    }
  }
  CollectRows(c);
  return out;
}

}  // namespace mindforge::sched
