#include "coordinator/scheduler/placement.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mindforge::sched {
namespace {

constexpr size_t kHoldersNamed = 3;
constexpr size_t kAsideNamed = 2;

// Own devices first, by the rank they had; then whole workers, the fullest first, so that a job
// spans few hosts. But before all, those without a failure.
std::vector<Candidate> InRankOrder(const PlacementRequest& request, std::vector<Candidate> free,
                                   int world_size) {
  std::map<WorkerId, int> on_worker;
  std::set<WorkerId> own;
  for (const Candidate& candidate : free) {
    ++on_worker[candidate.place.worker];
    if (candidate.own_rank >= 0) own.insert(candidate.place.worker);
  }
  const auto key = [&](const Candidate& c) {
    const int faults = c.faults == nullptr ? 0 : FaultsFor(*c.faults, request.job);
    return std::tuple(faults, c.own_rank < 0 && c.worker_has_faults, c.own_rank < 0, c.own_rank,
                      own.count(c.place.worker) == 0, -on_worker[c.place.worker], c.worker_name,
                      c.place.worker.value(), c.place.device);
  };
  std::sort(free.begin(), free.end(),
            [&](const Candidate& a, const Candidate& b) { return key(a) < key(b); });
  free.resize(std::min<size_t>(free.size(), world_size));
  return free;
}

std::string Holders(const PlacementRequest& request, const std::vector<Candidate>& all) {
  std::vector<std::string> named;
  size_t more = 0;
  for (const Candidate& candidate : all) {
    if (candidate.holder.empty() || !Suits(request, candidate)) continue;
    if (std::find(named.begin(), named.end(), candidate.holder) != named.end()) continue;
    if (named.size() < kHoldersNamed) {
      named.push_back(candidate.holder);
    } else {
      ++more;
    }
  }
  if (named.empty()) return "";
  return absl::StrCat(" (", absl::StrJoin(named, ", "),
                      more == 0 ? "" : absl::StrCat(" and ", more, " more"), ")");
}

constexpr size_t kNumericsNamed = 4;
constexpr size_t kOldNamed = 3;

bool NamesNoNumerics(const Candidate& candidate) {
  return candidate.numerics == nullptr || candidate.numerics->empty();
}

// Whose builds do not know what the job asks for; empty: nobody's.
std::string TooOld(const PlacementRequest& request, const std::vector<Candidate>& all) {
  if (request.newer_fields.empty()) return "";
  std::set<std::string> workers;
  for (const Candidate& candidate : all) {
    if (request.kind && *request.kind != candidate.kind) continue;
    if (NamesNoNumerics(candidate)) workers.insert(candidate.worker_name);
  }
  if (workers.empty()) return "";
  std::vector<std::string> named(workers.begin(), workers.end());
  const size_t more = named.size() - std::min(named.size(), kOldNamed);
  named.resize(named.size() - more);
  return absl::StrCat("; the job uses ", request.newer_fields, ", which the build of ",
                      workers.size() == 1 ? "worker " : "workers ", absl::StrJoin(named, ", "),
                      more == 0 ? "" : absl::StrCat(" and ", more, " more"),
                      " does not know: upgrade mindforge-worker there");
}

const std::string* NameFor(const PlacementRequest& request, const Candidate& candidate) {
  static const std::vector<TrainingNumerics> kNone;
  return NumericsName(candidate.numerics == nullptr ? kNone : *candidate.numerics,
                      candidate.signature, request.dtype);
}

// What a job can do whose numerics no live worker has.
std::string NoSuchNumerics(const PlacementRequest& request, const std::vector<Candidate>& all) {
  std::set<std::string> others;
  for (const Candidate& candidate : all) {
    if (request.kind && *request.kind != candidate.kind) continue;
    const std::string* name = NameFor(request, candidate);
    if (name != nullptr && others.size() < kNumericsNamed) others.insert(*name);
  }
  return absl::StrCat(
      "start workers that have them (the device and the build it began with)",
      others.empty() ? ""
                     : absl::StrCat("; those here compute with '", absl::StrJoin(others, "', '"),
                                    "': `mindforge ", "job repin ", request.job_name,
                                    "` lets it go on there, with other last bits"));
}

std::string WhyNot(const PlacementRequest& request, const std::vector<Candidate>& all,
                   int most_free, int most_suitable) {
  const std::string needs = absl::StrCat(request.grows ? "a shorter step needs " : "needs ",
                                         DevicesInWords(request, request.min));
  if (all.empty()) {
    return absl::StrCat(needs, ", no worker is registered: start mindforge-worker");
  }
  if (most_suitable < request.min) {
    std::string what = request.signature.empty()
                           ? ""
                           : absl::StrCat(" with the numerics '", request.signature,
                                          "' that it is pinned to since its first start");
    const std::string remedy =
        most_suitable == 0 && !request.signature.empty()
            ? NoSuchNumerics(request, all)
            : absl::StrCat("start more workers", request.grows ? "" : ", or lower workers.min");
    return absl::StrCat(
        needs, what, ", ", most_suitable == 0 ? "none" : absl::StrCat("only ", most_suitable),
        most_suitable <= 1 ? " is" : " are", " registered on live workers",
        most_suitable == 0 ? "" : " of one build", ": ", remedy, TooOld(request, all));
  }
  return absl::StrCat(needs, ", ", most_free, " free", Holders(request, all));
}

}  // namespace

int64_t Rounds(int64_t accumulation_steps, int world_size) {
  return (accumulation_steps + world_size - 1) / world_size;
}

int SmallestWorldSize(const PlacementRequest& request, int available) {
  const int64_t usable = std::min<int64_t>({available, request.max, request.accumulation_steps});
  if (usable < 1) return 0;
  const int64_t rounds = Rounds(request.accumulation_steps, static_cast<int>(usable));
  const int64_t smallest = (request.accumulation_steps + rounds - 1) / rounds;
  return static_cast<int>(std::max<int64_t>(smallest, std::min<int64_t>(request.min, usable)));
}

const char* KindName(DeviceKind kind) { return kind == DeviceKind::kCuda ? "cuda" : "cpu"; }

bool Suits(const PlacementRequest& request, const Candidate& candidate) {
  if (request.kind && *request.kind != candidate.kind) return false;
  if (NamesNoNumerics(candidate)) {
    return request.newer_fields.empty() &&
           (request.signature.empty() || request.signature == candidate.signature);
  }
  for (const TrainingNumerics& numerics : *candidate.numerics) {
    if (numerics.dtype != request.dtype) continue;
    return request.signature.empty() || SameBits(numerics, request.signature);
  }
  return false;
}

const std::string* NumericsName(const std::vector<TrainingNumerics>& numerics,
                                const std::string& signature, const std::string& dtype) {
  if (numerics.empty()) return &signature;
  for (const TrainingNumerics& of_dtype : numerics) {
    if (of_dtype.dtype == dtype) return &of_dtype.name;
  }
  return nullptr;
}

std::string DevicesInWords(const PlacementRequest& request, int count) {
  return absl::StrCat(count, request.kind ? absl::StrCat(" ", KindName(*request.kind)) : "",
                      count == 1 ? " device" : " devices");
}

namespace {

Placement PlaceAmong(const PlacementRequest& request, const std::vector<Candidate>& all) {
  struct Group {
    DeviceKind kind;
    std::vector<Candidate> free;
    int suitable = 0;
  };
  std::map<std::pair<std::string, std::string>, Group> groups;  // by numerics and build
  for (const Candidate& candidate : all) {
    if (!Suits(request, candidate)) continue;
    const std::string& name = *NameFor(request, candidate);
    Group& group = groups[{name, candidate.build}];
    group.kind = candidate.kind;
    ++group.suitable;
    if (!candidate.holder.empty()) continue;
    group.free.push_back(candidate);
    group.free.back().signature = name;
  }

  Group* best = nullptr;
  int most_suitable = 0;
  const auto rank = [&](const Group& group) {
    const int world = SmallestWorldSize(request, static_cast<int>(group.free.size()));
    // GPUs before CPUs, then as many ranks as help.
    return std::pair(group.kind == DeviceKind::kCuda, world);
  };
  int most_free = 0;
  for (auto& [key, group] : groups) {
    most_suitable = std::max(most_suitable, group.suitable);
    most_free = std::max(most_free, static_cast<int>(group.free.size()));
    if (static_cast<int>(group.free.size()) < request.min) continue;
    if (best == nullptr || rank(group) > rank(*best)) best = &group;
  }
  if (best == nullptr) {
    return {
        {}, false, most_suitable >= request.min, WhyNot(request, all, most_free, most_suitable)};
  }

  const int free = static_cast<int>(best->free.size());
  const int world = SmallestWorldSize(request, free);
  const int wanted = SmallestWorldSize(request, request.max);
  Placement placement;
  placement.could_fit = true;
  placement.ranks = InRankOrder(request, std::move(best->free), world);
  const int64_t rounds = Rounds(request.accumulation_steps, world);
  placement.fewer_rounds_with_more = Rounds(request.accumulation_steps, wanted) < rounds;
  placement.reason = absl::StrCat("placed on ", world, " ", KindName(best->kind),
                                  world == 1 ? " device" : " devices");
  const int usable = std::min(free, request.max);
  if (usable > world) {
    absl::StrAppend(&placement.reason, " of ", usable,
                    " that it could have: ", request.accumulation_steps, " microbatches take ",
                    rounds, rounds == 1 ? " round" : " rounds", " either way");
  }
  return placement;
}

}  // namespace

bool IsSetAside(const PlacementRequest& request, const Candidate& candidate) {
  return candidate.faults != nullptr && IsSetAside(*candidate.faults, request.job, request.now);
}

Placement Place(const PlacementRequest& request, const std::vector<Candidate>& all) {
  std::vector<Candidate> sound;
  std::vector<std::string> aside;  // in words
  for (const Candidate& candidate : all) {
    if (!Suits(request, candidate) || !IsSetAside(request, candidate)) {
      sound.push_back(candidate);
    } else {
      aside.push_back(absl::StrCat("device ", candidate.place.device, " of worker ",
                                   candidate.worker_name, " ",
                                   SetAsideInWords(*candidate.faults, request.job)));
    }
  }
  if (aside.empty()) return PlaceAmong(request, all);
  Placement placement = PlaceAmong(request, sound);
  std::string last;
  if (!placement.could_fit) {
    placement = PlaceAmong(request, all);
    if (!placement.could_fit) return placement;
    last = ", but without it there are too few";
  }
  const size_t more = aside.size() - std::min(aside.size(), kAsideNamed);
  aside.resize(aside.size() - more);
  absl::StrAppend(&placement.reason, "; ", absl::StrJoin(aside, "; "),
                  more == 0 ? "" : absl::StrCat("; and ", more, " more are set aside"), last);
  return placement;
}

}  // namespace mindforge::sched
