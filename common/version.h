// Which build this is.
#pragma once

#include <string>
#include <string_view>

namespace mindforge {

// "0.1.0", from CMake's project().
extern const char kVersion[];

// "Release", "Debug"…, with sanitizers where there are any.
extern const char kBuildType[];

// "gcc 12.2.0".
std::string_view CompilerName();

// What `--version` prints: "mindforge-worker 0.1.0 (Release, gcc 12.2.0)".
std::string VersionLine(std::string_view program);

}  // namespace mindforge
