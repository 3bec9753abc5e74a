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
#include "common/error_details.h"
#include "common/status_macros.h"
#include "worker/data/bad_lines.h"
#include "worker/data/jsonl_reader.h"
#include "worker/data/line_encoder.h"
#include "worker/data/progress_meter.h"
#include "worker/data/token_file.h"

namespace mindforge {
namespace {

constexpr int kMaxThreads = 8;
constexpr int64_t kNarrowVocab = int64_t{1} << 16;

// What one thread made of its share of a batch.
struct Share {
  std::vector<int32_t> ids;
  std::vector<int64_t> lengths;
  std::vector<BadLine> bad_lines;  // the first BadLines::kShownLines
  int64_t bad_count = 0;
  bool trainable = false;  // some document has something to train on
};

// What to make of a batch's lines.
struct Task {
  const LineEncoder& encoder;
  int64_t file = 0;         // counts the dataset's files
  bool check_only = false;  // the ids are not wanted any more
};

void EncodeLines(const Task& task, absl::Span<const NumberedLine> lines, Share* share) {
  for (const NumberedLine& line : lines) {
    const size_t before = share->ids.size();
    const absl::Status status =
        task.encoder.Encode(line, task.file, task.check_only ? nullptr : &share->ids);
    if (!status.ok()) {
      share->ids.resize(before);
      ++share->bad_count;
      if (share->bad_lines.size() < BadLines::kShownLines) {
        share->bad_lines.push_back({line.number, std::string(status.message())});
      }
      continue;
    }
    if (task.check_only) continue;
    share->lengths.push_back(static_cast<int64_t>(share->ids.size() - before));
    share->trainable |= task.encoder.IsTrainable(absl::MakeConstSpan(share->ids).subspan(before));
  }
}

// Cuts a batch into as many runs as there are threads, of about the same number of bytes.
std::vector<Share> EncodeBatch(const Task& task, const std::vector<NumberedLine>& lines,
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
      EncodeLines(task, run, &shares[t]);
    } else {
      workers.emplace_back([&task, run, share = &shares[t]] { EncodeLines(task, run, share); });
    }
  }
  for (std::thread& worker : workers) worker.join();
  return shares;
}

absl::Status UnusableData(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, kUnusableData, message);
}

// What all batches together are found to be.
class Verdict {
 public:
  Verdict(const std::vector<DataFile>& files, const LineEncoder& encoder)
      : files_(files), encoder_(encoder) {}

  void Add(const Share& share, const DataFile& file) {
    bad_.Add(file.path, share.bad_count, share.bad_lines);
    trainable_ |= share.trainable;
  }

  int64_t bad_count() const { return bad_.count(); }

  // OK, or why nothing can be trained on (kUnusableData).
  absl::Status ToStatus(MalformedLines malformed) const {
    const bool single = files_.size() == 1;
    if (malformed == MalformedLines::kRefuse && bad_.count() > 0) {
      return UnusableData(absl::StrCat(
          single ? absl::StrCat(files_[0].path, ": ") : "", bad_.InWords(!single),
          ". Each line must be ", encoder_.line_form(),
          ", in UTF-8 (iconv converts other encodings, jq -c '.[]' a JSON array); mend them, or "
          "leave them out with malformed_lines: skip"));
    }
    if (trainable_) return absl::OkStatus();
    return UnusableData(absl::StrCat(
        files_[0].path,
        single ? " holds no " : absl::StrCat(" and ", files_.size() - 1, " more hold no "),
        encoder_.trainable_form(), ": nothing to train on",
        bad_.count() > 0 ? absl::StrCat("; ", bad_.InWords(!single)) : ""));
  }

  // By file, a line each.
  std::string Notes() const { return absl::StrJoin(bad_.PerFile(), "\n"); }

 private:
  const std::vector<DataFile>& files_;
  const LineEncoder& encoder_;
  BadLines bad_;
  bool trainable_ = false;
};

size_t ThreadCount(const TokenCacheOptions& options) {
  const int wanted =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  return static_cast<size_t>(std::clamp(wanted, 1, kMaxThreads));
}

// Adds one file's documents and returns its digest. `stored_before`: bytes on disk of those before
// it.
absl::StatusOr<uint64_t> AddFile(const TokenCacheOptions& options, Task task, const DataFile& file,
                                 int64_t stored_before, TokenFileWriter* writer, Verdict* verdict,
                                 ProgressMeter* progress) {
  const size_t threads = ThreadCount(options);
  ASSIGN_OR_RETURN(const std::unique_ptr<JsonlReader> reader,
                   JsonlReader::Open(file.path, options.limits));
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<NumberedLine> lines, reader->NextBatch());
    if (lines.empty()) return reader->digest();
    const auto refused = [&] {
      return options.malformed == MalformedLines::kRefuse && verdict->bad_count() > 0;
    };
    task.check_only = refused();
    for (const Share& share : EncodeBatch(task, lines, threads)) {
      verdict->Add(share, file);
      if (!refused()) RETURN_IF_ERROR(writer->Append(share.ids, share.lengths));
    }
    progress->Advance(stored_before + reader->stored_bytes_read());
  }
}

}  // namespace

absl::Status BuildTokenFile(const TokenCacheOptions& options, const std::vector<DataFile>& files,
                            const Tokenizer& tokenizer, uint64_t digest, const std::string& path) {
  const TextEncoder texts(tokenizer);
  const LineEncoder& encoder = options.encoder != nullptr ? *options.encoder : texts;
  const uint32_t id_bytes = tokenizer.vocab_size() <= kNarrowVocab ? 2 : 4;
  uint64_t tokenizer_digest = 0;
  MF_CHECK(absl::SimpleHexAtoi(tokenizer.digest(), &tokenizer_digest)) << tokenizer.digest();
  ASSIGN_OR_RETURN(const std::unique_ptr<TokenFileWriter> writer,
                   TokenFileWriter::Create(path, id_bytes));
  ProgressMeter progress(options.progress, TokenCacheProgress::Phase::kTokenizing,
                         StoredBytes(files));
  Verdict verdict(files, encoder);
  std::vector<uint64_t> digests;
  int64_t stored_before = 0;
  for (const DataFile& file : files) {
    const Task task{.encoder = encoder, .file = static_cast<int64_t>(digests.size())};
    ASSIGN_OR_RETURN(digests.emplace_back(), AddFile(options, task, file, stored_before,
                                                     writer.get(), &verdict, &progress));
    stored_before += file.identity.bytes;
  }
  progress.Finish();
  RETURN_IF_ERROR(verdict.ToStatus(options.malformed));
  if (CombineDigests(digests) != digest) {
    return absl::UnavailableError(
        absl::StrCat(files[0].path, files.size() == 1 ? "" : " or another of the dataset's files",
                     " changed while it was read; start again when it is complete"));
  }
  return writer->Finish({.dataset_digest = digest,
                         .tokenizer_digest = tokenizer_digest,
                         .skipped_lines = verdict.bad_count(),
                         .notes = verdict.Notes()});
}

}  // namespace mindforge
