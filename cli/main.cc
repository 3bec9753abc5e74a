// The program `mindforge`.
#include <clocale>
#include <iostream>
#include <string>
#include <vector>

#include "cli/app.h"
#include "common/logging.h"
#include "google/protobuf/stubs/logging.h"

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "C.UTF-8");  // wcwidth: how wide a character is on a terminal
  std::ios::sync_with_stdio(false);
  // What concerns the user is said by the commands themselves.
  google::protobuf::SetLogHandler(nullptr);  // what it would say is said by the commands
  mindforge::SetMinLogSeverity(mindforge::LogSeverity::kWARNING);
  mindforge::cli::Session session(std::cout, std::cerr, mindforge::cli::DetectTerminal(1),
                                  mindforge::cli::DetectTerminal(2));
  return mindforge::cli::Main(std::vector<std::string>(argv + 1, argv + argc), session);
}
