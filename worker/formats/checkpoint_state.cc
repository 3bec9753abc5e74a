// state.json <-> CheckpointState.
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

// Reads members one by one; the first failure is kept.
class StateReader {
 public:
  explicit StateReader(const Json& json) : json_(json) {}

  template <typename T>
  void Read(const char* name, T* out) {
    const auto it = json_.find(name);
    if (it == json_.end()) return Fail(name, "is missing");
    try {
      *out = it->get<T>();
    } catch (const Json::exception&) {
      Fail(name, absl::StrCat("is of a wrong type (", it->type_name(), ")"));
    }
  }

  const Json* Find(const char* name) {
    const auto it = json_.find(name);
    if (it == json_.end()) Fail(name, "is missing");
    return it == json_.end() ? nullptr : &*it;
  }

  void Fail(const char* name, const std::string& what) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat("state.json: `", name, "` ", what));
    }
  }

  const absl::Status& status() const { return status_; }

 private:
  const Json& json_;
  absl::Status status_;
};

Json CountersToJson(const TrainingCounters& counters) {
  return {{"updates", counters.updates},
          {"skipped_steps", counters.skipped_steps},
          {"skipped_in_a_row", counters.skipped_in_a_row},
          {"rollbacks_in_a_row", counters.rollbacks_in_a_row},
          {"rolled_back_to", counters.rolled_back_to},
          {"loss_scale", counters.loss_scale},
          {"good_steps", counters.good_steps}};
}

absl::StatusOr<TrainingCounters> CountersFromJson(const Json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError("state.json: `counters` must be an object");
  }
  TrainingCounters counters;
  StateReader reader(json);
  reader.Read("updates", &counters.updates);
  reader.Read("skipped_steps", &counters.skipped_steps);
  reader.Read("skipped_in_a_row", &counters.skipped_in_a_row);
  reader.Read("rollbacks_in_a_row", &counters.rollbacks_in_a_row);
  // Files of older programs lack it.
  if (json.contains("rolled_back_to")) reader.Read("rolled_back_to", &counters.rolled_back_to);
  reader.Read("loss_scale", &counters.loss_scale);
  reader.Read("good_steps", &counters.good_steps);
  if (!reader.status().ok()) return reader.status();
  return counters;
}

// Files of older programs lack it.
void ReadNumerics(const Json& json, StateReader& reader, CheckpointState& state) {
  const auto history = json.find("numerics_history");
  if (history == json.end()) return;
  if (!history->is_array()) return reader.Fail("numerics_history", "must be a list");
  for (const Json& entry : *history) {
    NumericsPeriod period;
    StateReader fields(entry);
    fields.Read("first_step", &period.first_step);
    fields.Read("name", &period.name);
    if (!fields.status().ok()) return reader.Fail("numerics_history", "has a broken entry");
    state.numerics_history.push_back(std::move(period));
  }
}

}  // namespace

Json CheckpointStateToJson(const CheckpointState& state) {
  Json history = Json::array();
  for (const WorldSizeChange& change : state.world_size_history) {
    history.push_back({{"first_step", change.first_step}, {"world_size", change.world_size}});
  }
  Json numerics = Json::array();
  for (const NumericsPeriod& period : state.numerics_history) {
    numerics.push_back({{"first_step", period.first_step}, {"name", period.name}});
  }
  return {{"job_id", state.job_id},
          {"step", state.step},
          {"generation", state.generation},
          {"epoch", state.epoch},
          {"sequences_consumed", state.sequences_consumed},
          {"seed", state.seed},
          {"config", state.config},
          {"dataset_digest", state.dataset_digest},
          {"device_kind", state.device_kind},
          {"world_size_history", std::move(history)},
          {"numerics_history", std::move(numerics)},
          {"tracker_ids", state.tracker_ids},
          {"loss", std::isfinite(state.loss) ? Json(state.loss) : Json(nullptr)},
          {"validation_loss", state.validation_loss ? Json(*state.validation_loss) : Json(nullptr)},
          {"counters", CountersToJson(state.counters)}};
}

absl::StatusOr<CheckpointState> CheckpointStateFromJson(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("state.json: must be an object");
  CheckpointState state;
  StateReader reader(json);
  reader.Read("job_id", &state.job_id);
  reader.Read("step", &state.step);
  reader.Read("generation", &state.generation);
  reader.Read("epoch", &state.epoch);
  reader.Read("sequences_consumed", &state.sequences_consumed);
  reader.Read("seed", &state.seed);
  reader.Read("config", &state.config);
  reader.Read("dataset_digest", &state.dataset_digest);
  reader.Read("device_kind", &state.device_kind);
  reader.Read("tracker_ids", &state.tracker_ids);
  const Json* const loss = reader.Find("loss");
  if (loss != nullptr && loss->is_null()) {
    state.loss = std::numeric_limits<double>::quiet_NaN();
  } else {
    reader.Read("loss", &state.loss);
  }
  // These two came later: files of older programs lack them.
  if (const auto it = json.find("validation_loss"); it != json.end() && !it->is_null()) {
    reader.Read("validation_loss", &state.validation_loss.emplace());
  }
  state.counters.updates = state.step;
  if (const auto it = json.find("counters"); it != json.end()) {
    const absl::StatusOr<TrainingCounters> counters = CountersFromJson(*it);
    if (!counters.ok()) return counters.status();
    state.counters = *counters;
  }
  if (const Json* const history = reader.Find("world_size_history"); history != nullptr) {
    if (!history->is_array()) reader.Fail("world_size_history", "must be a list");
    for (const Json& entry : *history) {
      WorldSizeChange change;
      StateReader fields(entry);
      fields.Read("first_step", &change.first_step);
      fields.Read("world_size", &change.world_size);
      if (!fields.status().ok()) return fields.status();
      state.world_size_history.push_back(change);
    }
  }
  ReadNumerics(json, reader, state);
  if (!reader.status().ok()) return reader.status();
  return state;
}

}  // namespace mindforge
