// Helper of compare_with_tokenizers.py:
//   ids_of_lines encode TOKENIZER FILE
//     jsonl (field `text`) -> one line of ids for each
//   ids_of_lines bytes TOKENIZER FILE
//     lines of hexadecimal bytes -> one line of ids for each
//   ids_of_lines decode TOKENIZER FILE
//     lines of ids -> the text's bytes in hexadecimal, with and without special tokens, a space
//     between
//   ids_of_lines train FILE VOCAB_SIZE OUT_DIR
// "encode" and "bytes" also check that streaming and whole decoding agree with the text.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "common/utf8.h"
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

std::string FromHex(const std::string& line) {
  std::string bytes;
  for (size_t i = 0; i + 1 < line.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::string ToHex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const unsigned char c : bytes) {
    hex += kDigits[c >> 4];
    hex += kDigits[c & 15];
  }
  return hex;
}

std::vector<std::string> ReadHexLines(const char* path) {
  std::ifstream file(path);
  std::vector<std::string> texts;
  for (std::string line; std::getline(file, line);) texts.push_back(FromHex(line));
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

int Encode(const char* tokenizer_path, const std::vector<std::string>& texts) {
  const auto tokenizer = Tokenizer::Load(tokenizer_path);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
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
    if (!DecodesBack(**tokenizer, all[i], SanitizeUtf8(texts[i]))) {
      std::cerr << "line " << i + 1 << " does not decode to its text\n";
      return 1;
    }
    for (const int32_t id : all[i]) std::cout << id << ' ';
    std::cout << '\n';
  }
  return 0;
}

int Decode(const char* tokenizer_path, const char* path) {
  const auto tokenizer = Tokenizer::Load(tokenizer_path);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::vector<int32_t> ids;
    for (int32_t id; words >> id;) ids.push_back(id);
    std::cout << ToHex((*tokenizer)->Decode(ids)) << ' '
              << ToHex((*tokenizer)->Decode(ids, {.skip_special_tokens = true})) << '\n';
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
  using namespace mindforge;  // NOLINT(google-build-using-namespace)
  if (mode == "encode" && argc == 4) return Encode(argv[2], ReadTexts(argv[3]));
  if (mode == "bytes" && argc == 4) return Encode(argv[2], ReadHexLines(argv[3]));
  if (mode == "decode" && argc == 4) return Decode(argv[2], argv[3]);
  if (mode == "train" && argc == 5) return Train(argv[2], argv[3], argv[4]);
  std::cerr
      << "usage: ids_of_lines encode|bytes|decode TOKENIZER FILE | train FILE VOCAB_SIZE OUT_DIR\n";
  return 2;
}
