#include "worker/data/cache_builder.h"

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "worker/data/jsonl_reader.h"
#include "worker/data/token_file.h"

namespace mindforge {
namespace {

constexpr int kMaxThreads = 8;
constexpr size_t kShownProblems = 10;
constexpr int64_t kNarrowVocab = int64_t{1} << 16;

// What one thread made of its share of a batch.
struct Share {
  std::vector<int32_t> ids;
  std::vector<int64_t> lengths;
  std::vector<std::string> problems;  // the first kShownProblems
  int64_t problem_count = 0;
  bool has_pair = false;  // some text has two tokens or more: an input and a target
};

void EncodeLines(absl::Span<const NumberedLine> lines, const Tokenizer& tokenizer, Share* share) {
  for (const NumberedLine& line : lines) {
    absl::StatusOr<std::string> text = TextOfLine(line.text);
    const size_t before = share->ids.size();
    if (text.ok()) tokenizer.EncodeAppend(*text, &share->ids);
    const auto length = static_cast<int64_t>(share->ids.size() - before);
    if (text.ok()) {
      share->lengths.push_back(length);
      share->has_pair |= length >= 2;
      continue;
    }
    ++share->problem_count;
    if (share->problems.size() < kShownProblems) {
      share->problems.push_back(absl::StrCat("line ", line.number, ": ", text.status().message()));
    }
  }
}

// Cuts a batch into as many runs as there are threads, of about the same number of bytes.
std::vector<Share> EncodeBatch(const std::vector<NumberedLine>& lines, const Tokenizer& tokenizer,
                               size_t threads) {
  size_t bytes = 0;
  for (const NumberedLine& line : lines) bytes += line.text.size();
  std::vector<Share> shares(threads);
  std::vector<std::thread> workers;
  size_t begin = 0;
  size_t seen = 0;
  for (size_t t = 0; t < threads; ++t) {
    size_t end = begin;
    const size_t until = bytes / threads * (t + 1);
    while (end < lines.size() && (seen < until || t + 1 == threads)) {
      seen += lines[end++].text.size();
    }
    const absl::Span<const NumberedLine> run(lines.data() + begin, end - begin);
    begin = end;
    // This thread does the last run itself.
    if (t + 1 == threads) {
      EncodeLines(run, tokenizer, &shares[t]);
    } else {
      workers.emplace_back(
          [run, &tokenizer, share = &shares[t]] { EncodeLines(run, tokenizer, share); });
    }
  }
  for (std::thread& worker : workers) worker.join();
  return shares;
}

// Problems of all batches.
struct Verdict {
  std::vector<std::string> problems;
  int64_t problem_count = 0;
  bool has_pair = false;

  void Add(Share* share) {
    problem_count += share->problem_count;
    has_pair |= share->has_pair;
    for (std::string& problem : share->problems) {
      if (problems.size() < kShownProblems) problems.push_back(std::move(problem));
    }
  }

  absl::Status ToStatus(const std::string& path) const {
    if (problem_count > 0) {
      std::string shown = absl::StrJoin(problems, "; ");
      if (problem_count > static_cast<int64_t>(problems.size())) {
        absl::StrAppend(&shown, "; and ", problem_count - problems.size(), " more");
      }
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": ", problem_count, problem_count == 1 ? " line" : " lines", " cannot be used: ",
          shown, ". Each line must be a JSON object with a non-empty string `text`"));
    }
    if (!has_pair) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " holds no text of two tokens or more: nothing to train on"));
    }
    return absl::OkStatus();
  }
};

size_t ThreadCount(const TokenCacheOptions& options) {
  const int wanted =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  return static_cast<size_t>(std::clamp(wanted, 1, kMaxThreads));
}

}  // namespace

absl::Status BuildTokenFile(const TokenCacheOptions& options, const Tokenizer& tokenizer,
                            uint64_t digest, const std::string& path) {
  const uint32_t id_bytes = tokenizer.vocab_size() <= kNarrowVocab ? 2 : 4;
  uint64_t tokenizer_digest = 0;
  MF_CHECK(absl::SimpleHexAtoi(tokenizer.digest(), &tokenizer_digest)) << tokenizer.digest();
  ASSIGN_OR_RETURN(const std::unique_ptr<JsonlReader> reader, JsonlReader::Open(options.path));
  ASSIGN_OR_RETURN(const std::unique_ptr<TokenFileWriter> writer,
                   TokenFileWriter::Create(path, id_bytes));
  const size_t threads = ThreadCount(options);
  Verdict verdict;
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<NumberedLine> lines, reader->NextBatch());
    if (lines.empty()) break;
    for (Share& share : EncodeBatch(lines, tokenizer, threads)) {
      verdict.Add(&share);
      if (verdict.problem_count > 0) continue;  // only counting is left to do
      RETURN_IF_ERROR(writer->Append(share.ids, share.lengths));
    }
    if (options.progress) options.progress({reader->bytes_read(), reader->bytes_total()});
  }
  RETURN_IF_ERROR(verdict.ToStatus(options.path));
  if (reader->digest() != digest) {
    return absl::UnavailableError(
        absl::StrCat(options.path, " changed while it was read; start again when it is complete"));
  }
  return writer->Finish(digest, tokenizer_digest);
}

}  // namespace mindforge
