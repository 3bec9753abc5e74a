// Whether what a pickle holds is a finite tree, or a graph without cycles where values are shared.
#include <algorithm>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/pickle.h"

namespace mindforge {
namespace {

constexpr int kMaxDepth = 64;
constexpr int kOnPath = -1;

class TreeCheck {
 public:
  // Returns how deep `value` is; shared ones are looked at once.
  absl::StatusOr<int> HeightOf(const PickleValue* value, int depth) {
    if (value->items.empty()) return 0;
    const auto [it, first] = heights_.emplace(value, kOnPath);
    if (!first && it->second == kOnPath) {
      return absl::InvalidArgumentError("a value of the pickle contains itself");
    }
    int height = first ? 0 : it->second;
    if (depth + height >= kMaxDepth) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the pickle nests values more than ", kMaxDepth, " deep"));
    }
    if (!first) return height;
    for (const PickleValue* item : value->items) {
      ASSIGN_OR_RETURN(const int below, HeightOf(item, depth + 1));
      height = std::max(height, below + 1);
    }
    heights_[value] = height;
    return height;
  }

 private:
  std::unordered_map<const PickleValue*, int> heights_;  // kOnPath: being looked at
};

}  // namespace

absl::Status CheckPickleTree(const PickleValue& root) {
  return TreeCheck().HeightOf(&root, 0).status();
}

}  // namespace mindforge
