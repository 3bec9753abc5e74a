// Where in a .pth document the state dict is: programs wrap it in dictionaries of their own.
#include <array>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/formats/pth.h"
#include "worker/formats/tensor_names.h"

namespace mindforge {
namespace {

using Kind = PickleValue::Kind;

constexpr int kMaxNesting = 3;

// As DeepSpeed (`module`), Lightning, the reference's resume file and others name it.
constexpr std::array<std::string_view, 4> kWrappers = {"model", "module", "state_dict",
                                                       "model_state_dict"};

struct Candidate {
  const PickleValue* dict = nullptr;
  std::string path;  // "module", "state_dict.model"
};

size_t CountTensors(const PthFile& file, const PickleValue& dict) {
  size_t count = 0;
  for (size_t i = 0; dict.kind == Kind::kDict && i + 1 < dict.items.size(); i += 2) {
    count += dict.items[i]->kind == Kind::kText && file.TensorOf(*dict.items[i + 1]) != nullptr;
  }
  return count;
}

// Dictionaries of tensors below the wrappers of `dict`.
void FindWrapped(const PthFile& file, const PickleValue& dict, const std::string& path, int depth,
                 std::vector<Candidate>* out) {
  for (const std::string_view key : kWrappers) {
    const PickleValue* const inner = dict.Get(key);
    if (inner == nullptr || inner->kind != Kind::kDict) continue;
    const std::string inner_path =
        path.empty() ? std::string(key) : absl::StrCat(path, ".", std::string(key));
    if (CountTensors(file, *inner) > 0) {
      out->push_back({inner, inner_path});
    } else if (depth < kMaxNesting) {
      FindWrapped(file, *inner, inner_path, depth + 1, out);
    }
  }
}

bool HasParameters(const PthFile& file, const PickleValue& dict) {
  for (size_t i = 0; dict.kind == Kind::kDict && i + 1 < dict.items.size(); i += 2) {
    if (dict.items[i]->kind == Kind::kText && dict.items[i]->text.ends_with(".weight") &&
        file.TensorOf(*dict.items[i + 1]) != nullptr) {
      return true;
    }
  }
  return false;
}

// "`ema` (a dictionary with 21 tensors), `epoch`".
std::string DescribeKeys(const PthFile& file, const PickleValue& dict) {
  std::vector<std::string> keys;
  for (size_t i = 0; dict.kind == Kind::kDict && i + 1 < dict.items.size(); i += 2) {
    if (dict.items[i]->kind != Kind::kText) continue;
    std::string key = absl::StrCat("`", ShownText(dict.items[i]->text), "`");
    const size_t tensors = CountTensors(file, *dict.items[i + 1]);
    if (tensors > 0) absl::StrAppend(&key, " (a dictionary with ", tensors, " tensors)");
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return absl::StrCat("it is ", std::string(dict.KindName()));
  return absl::StrCat("its keys are ", ListSome(keys, ", "));
}

std::vector<TensorView> TensorsOf(const PthFile& file, const PickleValue& dict) {
  std::unordered_map<std::string_view, size_t> places;
  std::vector<TensorView> tensors;
  for (size_t i = 0; dict.kind == Kind::kDict && i + 1 < dict.items.size(); i += 2) {
    const TensorView* const view = file.TensorOf(*dict.items[i + 1]);
    if (view == nullptr || dict.items[i]->kind != Kind::kText) continue;
    const std::string_view name = dict.items[i]->text;
    const auto [it, first] = places.emplace(name, tensors.size());
    if (first) tensors.emplace_back();
    tensors[it->second] = *view;  // the last of equal keys, as Python
    tensors[it->second].name = std::string(name);
  }
  return tensors;
}

}  // namespace

absl::StatusOr<std::vector<TensorView>> PthFile::StateDict() const {
  std::vector<Candidate> candidates;
  FindWrapped(*this, root(), "", 1, &candidates);
  if (candidates.empty() || HasParameters(*this, root())) candidates.push_back({&root(), ""});
  if (candidates.size() > 1) {
    std::vector<std::string> paths;
    for (const Candidate& candidate : candidates) {
      paths.push_back(candidate.path.empty() ? "the document itself"
                                             : absl::StrCat("`", candidate.path, "`"));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        path(), " holds more than one dictionary of tensors: ", absl::StrJoin(paths, " and "),
        "; save the one that is meant: torch.save(model.state_dict(), path)"));
  }
  std::vector<TensorView> tensors = TensorsOf(*this, *candidates[0].dict);
  if (!tensors.empty()) return tensors;
  return absl::InvalidArgumentError(
      absl::StrCat(path(), " holds no tensors by name: ", DescribeKeys(*this, root()),
                   "; save a state dict: torch.save(model.state_dict(), path)"));
}

}  // namespace mindforge
