// Strong types for what identifies things, so that a job's id cannot be passed for a worker's nor a
// step for a generation. They order, hash (std and absl) and print; arithmetic goes through
// value().
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <utility>

namespace mindforge {

// A value of type T that is only comparable with others of the same Tag.
template <typename Tag, typename T>
class StrongId {
 public:
  using ValueType = T;

  StrongId() = default;
  explicit StrongId(T value) : value_(std::move(value)) {}

  const T& value() const { return value_; }
  // True for the empty string or zero: "none".
  bool empty() const { return value_ == T{}; }

  friend auto operator<=>(const StrongId&, const StrongId&) = default;
  friend bool operator==(const StrongId&, const StrongId&) = default;

  template <typename H>
  friend H AbslHashValue(H state, const StrongId& id) {
    return H::combine(std::move(state), id.value_);
  }
  friend std::ostream& operator<<(std::ostream& out, const StrongId& id) {
    return out << id.value_;
  }

 private:
  T value_{};
};

// A job, for ever: given at submit, never reused.
using JobId = StrongId<struct JobIdTag, std::string>;
// A worker (an agent with its devices, or an inference worker), stable over restarts.
using WorkerId = StrongId<struct WorkerIdTag, std::string>;
// Numbers each membership of a job, from 1; 0 is "never started".
using Generation = StrongId<struct GenerationTag, int64_t>;
// Counts optimizer updates of a job, from 1; 0 is "none yet".
using Step = StrongId<struct StepTag, int64_t>;

}  // namespace mindforge

template <typename Tag, typename T>
struct std::hash<mindforge::StrongId<Tag, T>> {
  size_t operator()(const mindforge::StrongId<Tag, T>& id) const {
    return std::hash<T>()(id.value());
  }
};
