#include "common/version.h"

#include "absl/strings/str_cat.h"

namespace mindforge {

const char kVersion[] = MINDFORGE_VERSION;
const char kBuildType[] = MINDFORGE_BUILD_TYPE;

std::string_view CompilerName() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

std::string VersionLine(std::string_view program) {
  return absl::StrCat(std::string(program), " ", kVersion, " (", kBuildType, ", ",
                      std::string(CompilerName()), ")");
}

}  // namespace mindforge
