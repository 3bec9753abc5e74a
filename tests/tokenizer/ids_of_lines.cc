// Helper of compare_with_tokenizers.py. Reads jsonl (field `text`) and writes one line of ids for
// each, or trains a tokenizer on it:
//   ids_of_lines encode TOKENIZER FILE | ids_of_lines train FILE VOCAB_SIZE OUT_DIR
// "encode" also checks that streaming and whole decoding agree with the text.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/tokenizer/bpe_trainer.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

std::vector<std::string> ReadTexts(const char* path) {
  std::ifstream file(path);
  std::vector<std::string> texts;
  for (std::string line; std::getline(file, line);) {
    texts.push_back(nlohmann::json::parse(line).at("text").get<std::string>());
  }
  return texts;
}

bool DecodesBack(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                 const std::string& text) {
  StreamingDecoder stream(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.Push(id);
  streamed += stream.Flush();
  return tokenizer.Decode(ids) == text && streamed == text;
}

int Encode(const char* tokenizer_path, const char* path) {
  const auto tokenizer = Tokenizer::Load(tokenizer_path);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  const std::vector<std::string> texts = ReadTexts(path);
  size_t bytes = 0;
  std::vector<std::vector<int32_t>> all;
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text : texts) {
    bytes += text.size();
    all.push_back((*tokenizer)->Encode(text));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::fprintf(stderr, "%.1f MB/s, one thread\n",
               static_cast<double>(bytes) / 1e6 / seconds.count());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (!DecodesBack(**tokenizer, all[i], texts[i])) {
      std::cerr << "line " << i + 1 << " does not decode to its text\n";
      return 1;
    }
    for (const int32_t id : all[i]) std::cout << id << ' ';
    std::cout << '\n';
  }
  return 0;
}

int Train(const char* path, const char* vocab_size, const char* out) {
  auto trainer = BpeTrainer::Create({.vocab_size = std::stoll(vocab_size)});
  if (!trainer.ok()) {
    std::cerr << trainer.status() << "\n";
    return 1;
  }
  for (const std::string& text : ReadTexts(path)) (*trainer)->AddText(text);
  const auto trained = (*trainer)->Train();
  absl::Status status = trained.status();
  if (status.ok()) status = WriteTokenizerFolder(*trained, out);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  std::ios::sync_with_stdio(false);
  if (mode == "encode" && argc == 4) return mindforge::Encode(argv[2], argv[3]);
  if (mode == "train" && argc == 5) return mindforge::Train(argv[2], argv[3], argv[4]);
  std::cerr << "usage: ids_of_lines encode TOKENIZER FILE | train FILE VOCAB_SIZE OUT_DIR\n";
  return 2;
}
