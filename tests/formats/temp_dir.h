// Files of one test.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"
#include "tests/fakes/file_size_limit.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {

inline std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteBytes(const std::string& path, const std::string& content) {
  std::filesystem::remove(path);  // file systems flush what replaces content in place
  std::ofstream(path, std::ios::binary) << content;
}

inline std::string TestData(const std::string& name) {
  return std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/" + name;
}

}  // namespace mindforge
