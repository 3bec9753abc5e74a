// Helper of compare_conversations.py:
//   rows_of_dataset TOKENIZER FILE LENGTH pad|packed CACHE_DIR [KEY=VALUE]...
// The rows of a file of conversations, three lines each: inputs; targets, -100 where there is no
// loss; where each position's document begins. Keys: seed, random_system, drop_empty_think.
#include <iostream>
#include <string>

#include "tests/formats/dataset_rows.h"
#include "worker/data/dataset.h"

namespace mindforge {
namespace {

void Print(const DatasetRow& row) {
  for (const int64_t id : row.inputs) std::cout << id << ' ';
  std::cout << '\n';
  for (size_t t = 0; t < row.targets.size(); ++t) {
    std::cout << (row.mask[t] != 0 ? row.targets[t] : -100) << ' ';
  }
  std::cout << '\n';
  for (const int32_t start : row.starts) std::cout << start << ' ';
  std::cout << '\n';
}

int Run(int argc, char** argv) {
  ConversationOptions conversations;
  for (int i = 6; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string key = argument.substr(0, equals), value = argument.substr(equals + 1);
    if (key == "seed") conversations.seed = std::stoull(value);
    if (key == "random_system") conversations.random_system_fraction = std::stod(value);
    if (key == "drop_empty_think") conversations.drop_empty_think_fraction = std::stod(value);
  }
  const auto dataset = Dataset::Open({.path = argv[2],
                                      .tokenizer_path = argv[1],
                                      .max_seq_len = std::stoll(argv[3]),
                                      .packing = std::string(argv[4]) == "packed",
                                      .cache_dir = argv[5],
                                      .conversations = conversations});
  if (!dataset.ok()) {
    std::cerr << dataset.status() << "\n";
    return 1;
  }
  for (int64_t row = 0; row < (*dataset)->sequences(); ++row) Print(RowsOf(**dataset, {row})[0]);
  return 0;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  if (argc >= 6) return mindforge::Run(argc, argv);
  std::cerr << "usage: rows_of_dataset TOKENIZER FILE LENGTH pad|packed CACHE_DIR [KEY=VALUE]...\n";
  return 2;
}
