#include "worker/data/jsonl_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/json_parse.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr size_t kReadBytes = size_t{4} << 20;
constexpr size_t kMaxLineBytes = size_t{256} << 20;

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

}  // namespace

JsonlReader::JsonlReader(std::string path, UniqueFd fd, int64_t bytes_total)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      bytes_total_(bytes_total),
      hash_(XXH3_createState()) {
  XXH3_64bits_reset(hash_);
}

JsonlReader::~JsonlReader() { XXH3_freeState(hash_); }

absl::StatusOr<std::unique_ptr<JsonlReader>> JsonlReader::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    const absl::Status status = ErrnoStatus(errno, "cannot open", path);
    if (!absl::IsNotFound(status)) return status;
    return absl::NotFoundError(
        absl::StrCat("no dataset ", path, "; give a jsonl file, one object with a `text` a line"));
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is no regular file; give a jsonl file, one object with a `text` a line"));
  }
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  return std::unique_ptr<JsonlReader>(new JsonlReader(path, std::move(fd), info.st_size));
}

absl::StatusOr<uint64_t> JsonlReader::DigestOf(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<JsonlReader> reader, Open(path));
  while (!reader->at_end_) {
    reader->buffer_.clear();
    RETURN_IF_ERROR(reader->ReadMore());
  }
  return reader->digest();
}

absl::Status JsonlReader::ReadMore() {
  const size_t before = buffer_.size();
  buffer_.resize(before + kReadBytes);
  ssize_t got = 0;
  do {
    got = ::read(fd_.get(), buffer_.data() + before, kReadBytes);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return ErrnoStatus(errno, "cannot read", path_);
  buffer_.resize(before + static_cast<size_t>(got));
  XXH3_64bits_update(hash_, buffer_.data() + before, static_cast<size_t>(got));
  bytes_read_ += got;
  at_end_ = got == 0;
  return absl::OkStatus();
}

absl::StatusOr<size_t> JsonlReader::ReadWholeLines() {
  size_t searched = 0;
  while (true) {
    RETURN_IF_ERROR(ReadMore());
    if (at_end_) return buffer_.size();
    const size_t newline = buffer_.find_last_of('\n');
    if (newline != std::string::npos && newline >= searched) return newline + 1;
    searched = buffer_.size();
    if (searched > kMaxLineBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ", line ", lines_ + 1, " is longer than ", kMaxLineBytes, " bytes"));
    }
  }
}

absl::StatusOr<std::vector<NumberedLine>> JsonlReader::NextBatch() {
  std::vector<NumberedLine> lines;
  while (lines.empty() && !at_end_) {
    buffer_.erase(0, consumed_);
    ASSIGN_OR_RETURN(consumed_, ReadWholeLines());
    std::string_view rest(buffer_.data(), consumed_);
    while (!rest.empty()) {
      const size_t newline = rest.find('\n');
      const std::string_view line = rest.substr(0, newline);
      ++lines_;
      if (!IsBlank(line)) lines.push_back({lines_, line});
      rest.remove_prefix(newline == std::string_view::npos ? rest.size() : newline + 1);
    }
  }
  return lines;
}

absl::StatusOr<std::string> TextOfLine(std::string_view line) {
  absl::StatusOr<nlohmann::json> json = ParseJson(line, "not JSON");
  if (!json.ok()) {
    // "parse error at line 1, column 5" would be taken for the file's first line.
    std::string reason(json.status().message());
    constexpr std::string_view kPlace = "parse error at line 1, ";
    if (const size_t at = reason.find(kPlace); at != std::string::npos) {
      reason.erase(at, kPlace.size());
    }
    return absl::InvalidArgumentError(reason);
  }
  if (!json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("not an object but ", json->type_name()));
  }
  const auto text = json->find("text");
  if (text == json->end()) return absl::InvalidArgumentError("no field `text`");
  if (!text->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat("`text` is not a string but ", text->type_name()));
  }
  auto& value = text->get_ref<std::string&>();
  if (value.empty()) return absl::InvalidArgumentError("`text` is empty");
  return std::move(value);
}

}  // namespace mindforge
