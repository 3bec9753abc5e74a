// What tests of the real binary start from: a fake coordinator, a folder with a job file, and a way
// to run a command against them.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/fake_coordinator.h"
#include "tests/cli/program.h"
#include "tests/cli/samples.h"

namespace mindforge::cli {

inline constexpr char kJobFile[] = "name: tang\ndata: {path: a.jsonl, tokenizer: /t}\n";

inline std::string TestData(const std::string& name) {
  return std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/" + name;
}

class ProgramTest : public ::testing::Test {
 protected:
  ProgramTest() {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("cli_program_test." + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    Write("job.yaml", kJobFile);
  }
  ~ProgramTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = (folder_ / name).string();
    std::ofstream(path) << text;
    return path;
  }
  ProgramOptions Options(std::vector<std::string> arguments) {
    return {.arguments = std::move(arguments),
            .environment = {"MINDFORGE_SERVER=" + fake_.address()},
            .working_directory = folder_.string()};
  }
  Result Mindforge(std::vector<std::string> arguments) {
    return RunProgram(Options(std::move(arguments)));
  }
  void SetError(const absl::Status& error) {
    MutexLock lock(fake_.state.mutex);
    fake_.state.error = error;
  }

  FakeCoordinator fake_;
  std::filesystem::path folder_;
};

}  // namespace mindforge::cli
