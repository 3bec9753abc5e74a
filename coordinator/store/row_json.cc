#include "coordinator/store/row_json.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace mindforge {
namespace {

using nlohmann::json;
using sched::Device;
using sched::MemberPlace;
using sched::NumericsChange;
using sched::WorldSizeChange;

// Ids and names come over gRPC, which lets only UTF-8 pass; a stray byte must not throw all the
// same.
std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// Calls `read` on each element; what throws is no list of ours.
template <typename Read>
absl::Status ForEach(const std::string& text, Read read) {
  if (text == "[]") return absl::OkStatus();  // most: jobs that have ended hold no device
  try {
    for (const json& element : json::parse(text)) read(element);
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrCat("a row holds a broken list: ", error.what()));
  }
  return absl::OkStatus();
}

}  // namespace

std::string MembersToJson(const std::vector<MemberPlace>& members) {
  json list = json::array();
  for (const MemberPlace& member : members) {
    list.push_back(json::array({member.worker.value(), member.device}));
  }
  return Dump(list);
}

absl::Status MembersFromJson(const std::string& text, std::vector<MemberPlace>* members) {
  return ForEach(text, [&](const json& e) {
    members->push_back({WorkerId(e.at(0).get<std::string>()), e.at(1).get<std::string>()});
  });
}

std::string WorldSizesToJson(const std::vector<WorldSizeChange>& changes) {
  json list = json::array();
  for (const WorldSizeChange& change : changes) {
    list.push_back(
        json::array({change.generation.value(), change.from_step.value(), change.world_size}));
  }
  return Dump(list);
}

absl::Status WorldSizesFromJson(const std::string& text, std::vector<WorldSizeChange>* changes) {
  return ForEach(text, [&](const json& e) {
    changes->push_back(
        {Generation(e.at(0).get<int64_t>()), Step(e.at(1).get<int64_t>()), e.at(2).get<int>()});
  });
}

std::string NumericsToJson(const std::vector<NumericsChange>& changes) {
  json list = json::array();
  for (const NumericsChange& change : changes) {
    list.push_back(json::array({change.generation.value(), change.from_step.value(), change.name}));
  }
  return Dump(list);
}

absl::Status NumericsFromJson(const std::string& text, std::vector<NumericsChange>* changes) {
  return ForEach(text, [&](const json& e) {
    changes->push_back({Generation(e.at(0).get<int64_t>()), Step(e.at(1).get<int64_t>()),
                        e.at(2).get<std::string>()});
  });
}

std::string DevicesToJson(const std::vector<Device>& devices) {
  json list = json::array();
  for (const Device& device : devices) {
    json numerics = json::array();
    for (const TrainingNumerics& of_dtype : device.numerics) {
      numerics.push_back(json::array({of_dtype.dtype, of_dtype.name, of_dtype.former_names}));
    }
    list.push_back({{"id", device.id},
                    {"kind", static_cast<int>(device.kind)},
                    {"model", device.model},
                    {"memory_bytes", device.memory_bytes},
                    {"threads", device.threads},
                    {"signature", device.signature},
                    {"numerics", std::move(numerics)}});
  }
  return Dump(list);
}

absl::Status DevicesFromJson(const std::string& text, std::vector<Device>* devices) {
  return ForEach(text, [&](const json& e) {
    devices->push_back({e.at("id").get<std::string>(),
                        static_cast<sched::DeviceKind>(e.at("kind").get<int>()),
                        e.at("model").get<std::string>(), e.at("memory_bytes").get<int64_t>(),
                        e.at("threads").get<int>(), e.at("signature").get<std::string>()});
    const auto numerics = e.find("numerics");  // rows of older programs have none
    if (numerics == e.end()) return;
    for (const json& of_dtype : *numerics) {
      devices->back().numerics.push_back({of_dtype.at(0).get<std::string>(),
                                          of_dtype.at(1).get<std::string>(),
                                          of_dtype.at(2).get<std::vector<std::string>>()});
    }
  });
}

int64_t TimeToRow(absl::Time time) {
  return time == absl::InfinitePast() ? 0 : absl::ToUnixMicros(time);
}

absl::Time TimeFromRow(int64_t micros) {
  return micros == 0 ? absl::InfinitePast() : absl::FromUnixMicros(micros);
}

}  // namespace mindforge
