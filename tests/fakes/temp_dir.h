// A folder of a test's own, gone when the test is.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "common/check.h"
#include "common/durable_file.h"

namespace mindforge {

// Makes a fresh folder under TMPDIR (or /tmp) and removes it with all that is in it.
class TempDir {
 public:
  TempDir() {
    const char* const base = ::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/mindforge-test-XXXXXX";
    MF_CHECK(::mkdtemp(path_.data()) != nullptr) << path_;
  }
  ~TempDir() {
    std::error_code ignored;  // a leftover harms no later test
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, ignored);
    RemoveTree(path_).IgnoreError();
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  std::string Write(const std::string& name, const std::string& content) const {
    std::filesystem::remove(File(name));  // file systems flush what replaces content in place
    std::ofstream(File(name), std::ios::binary) << content;
    return File(name);
  }

 private:
  std::string path_;
};

}  // namespace mindforge
