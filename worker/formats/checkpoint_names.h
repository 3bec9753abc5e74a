// Names inside a folder of checkpoints: finished ones, those being written, those being deleted.
#pragma once

#include <string>
#include <string_view>

namespace mindforge {

inline constexpr std::string_view kWritingPrefix = ".writing-";
inline constexpr std::string_view kRemovingPrefix = ".removing-";
inline constexpr std::string_view kQuarantinedPrefix = "quarantined-";

// ".writing-<name>.<host>.<pid>.<random>": tells whose it is.
std::string TemporaryFolderName(const std::string& name);

// True when that name is of a process of this host that no longer runs.
bool IsAbandoned(std::string_view temporary_name);

// True when the folder of that checkpoint was set aside as bad: it is not there, but no mount is
// missing.
bool WasQuarantined(const std::string& path);

// "a/b" of "a/b/c" and "a/b/c/"; "." of "c".
std::string ParentOf(std::string_view path);
// "c" of the same.
std::string NameOf(std::string_view path);

}  // namespace mindforge
