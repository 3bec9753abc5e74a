#include "worker/agent/spool_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/durable_file.h"
#include "common/logging.h"
#include "common/random_id.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr size_t kSegmentBytes = 4 << 20;
// With nothing waiting a segment larger than this gives way to an empty one.
constexpr size_t kIdleBytes = 256 << 10;
constexpr size_t kMaxRecordBytes = 1 << 20;
constexpr size_t kMaxSegmentBytes = kSegmentBytes + 2 * kMaxRecordBytes;
constexpr char kSegmentPrefix[] = "segment-";
// More than a machine can have written and not yet brought to the disk when it lost power.
constexpr int64_t kNumbersPerRestart = int64_t{1} << 20;

// A record: length of what follows the head, its checksum; then kind, number and bytes.
struct Head {
  uint32_t size = 0;
  uint32_t crc = 0;
};
// The first record of a segment: the numbers used before it, so that they outlive the records.
constexpr uint8_t kNumbersRecord = 0;
constexpr size_t kBodyHead = sizeof(uint8_t) + sizeof(int64_t);

std::string Encode(uint8_t kind, int64_t number, std::string_view bytes) {
  std::string record(sizeof(Head) + kBodyHead, '\0');
  std::memcpy(&record[sizeof(Head)], &kind, sizeof(kind));
  std::memcpy(&record[sizeof(Head) + sizeof(kind)], &number, sizeof(number));
  record.append(bytes);
  const std::string_view body = std::string_view(record).substr(sizeof(Head));
  const Head head{static_cast<uint32_t>(body.size()), MaskedCrc32c(body)};
  std::memcpy(record.data(), &head, sizeof(head));
  return record;
}

// The body of the record at the front of `text`; empty: there is no whole one.
std::string_view FrontBody(std::string_view text) {
  Head head;
  if (text.size() < sizeof(head)) return {};
  std::memcpy(&head, text.data(), sizeof(head));
  if (head.size < kBodyHead || head.size > kMaxRecordBytes) return {};
  if (text.size() - sizeof(head) < head.size) return {};
  const std::string_view body = text.substr(sizeof(head), head.size);
  return MaskedCrc32c(body) == head.crc ? body : std::string_view();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SpoolFile>> SpoolFile::Open(const std::string& folder) {
  RETURN_IF_ERROR(MakeDirs(folder));
  std::unique_ptr<SpoolFile> file(new SpoolFile(folder));
  RETURN_IF_ERROR(file->Load());
  return file;
}

absl::Status SpoolFile::Load() {
  const std::string id_path = JoinPath(folder_, "id");
  absl::StatusOr<std::string> id = ReadFile(id_path, kMaxRecordBytes);
  // What cannot be read now may be there the next time.
  if (!id.ok() && !absl::IsNotFound(id.status())) return id.status();
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(folder_));
  for (const std::string& name : names) {
    Segment segment;
    if (!absl::StartsWith(name, kSegmentPrefix) ||
        !absl::SimpleAtoi(name.substr(std::strlen(kSegmentPrefix)), &segment.number)) {
      continue;
    }
    // Records without the name of their numbers could be taken for others.
    if (!id.ok()) RETURN_IF_ERROR(RemoveTree(JoinPath(folder_, name)));
    if (id.ok()) segments_.push_back(segment);
  }
  if (!id.ok() || segments_.empty()) {
    id = RandomUuid();
    RETURN_IF_ERROR(WriteFileDurably(id_path, *id));
  }
  id_ = std::string(absl::StripAsciiWhitespace(*id));
  std::sort(segments_.begin(), segments_.end(),
            [](const Segment& a, const Segment& b) { return a.number < b.number; });
  return absl::OkStatus();
}

std::string SpoolFile::PathOf(int64_t segment) const {
  return JoinPath(folder_, absl::StrCat(kSegmentPrefix, segment));
}

SpoolNumbers SpoolFile::Replay(
    const std::function<void(SpoolKind, int64_t, std::string_view)>& take) {
  for (Segment& segment : segments_) ReplaySegment(segment, take);
  if (!segments_.empty()) {
    for (int64_t& number : used_.of) number += kNumbersPerRestart;
  }
  if (const absl::Status status = BeginSegment(); !status.ok()) {
    failing_ = true;
    MF_LOG(ERROR) << "the spool cannot be written, so an agent that is killed loses what the "
                     "coordinator has not heard: "
                  << status;
  }
  return used_;
}

void SpoolFile::ReplaySegment(
    Segment& segment, const std::function<void(SpoolKind, int64_t, std::string_view)>& take) {
  const absl::StatusOr<std::string> text = ReadFile(PathOf(segment.number), kMaxSegmentBytes);
  if (!text.ok()) {
    MF_LOG(ERROR) << "records that the coordinator may not have heard are lost: " << text.status();
    return;
  }
  std::string_view rest = *text;
  for (std::string_view body = FrontBody(rest); !body.empty(); body = FrontBody(rest)) {
    rest.remove_prefix(sizeof(Head) + body.size());
    uint8_t kind = 0;
    int64_t number = 0;
    std::memcpy(&kind, body.data(), sizeof(kind));
    std::memcpy(&number, body.data() + sizeof(kind), sizeof(number));
    body.remove_prefix(kBodyHead);
    if (kind == kNumbersRecord && body.size() == sizeof(SpoolNumbers)) {
      SpoolNumbers before;
      std::memcpy(&before, body.data(), sizeof(before));
      for (size_t i = 0; i < before.of.size(); ++i) {
        used_.of[i] = std::max(used_.of[i], before.of[i]);
      }
    } else if (kind >= 1 && kind <= used_.of.size()) {
      const auto spooled = static_cast<SpoolKind>(kind);
      used_[spooled] = std::max(used_[spooled], number);
      segment.newest[spooled] = std::max(segment.newest[spooled], number);
      take(spooled, number, body);
    }
  }
  if (!rest.empty()) {
    MF_LOG(WARNING) << PathOf(segment.number) << ": its last " << rest.size()
                    << " bytes are no whole record and are left out";
  }
}

absl::Status SpoolFile::BeginSegment() {
  const int64_t number = segments_.empty() ? 1 : segments_.back().number + 1;
  const std::string path = PathOf(number);
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  fd_ = std::move(fd);
  size_ = 0;
  segments_.push_back({number, {}});
  const absl::Status status =
      Write(kNumbersRecord, 0, {reinterpret_cast<const char*>(used_.of.data()), sizeof(used_.of)});
  if (!status.ok()) {
    // Without the numbers it must not outlive the segments that have them.
    fd_.Reset();
    segments_.pop_back();
    ::unlink(path.c_str());
  }
  return status;
}

absl::Status SpoolFile::Write(uint8_t kind, int64_t number, std::string_view bytes) {
  const std::string record = Encode(kind, number, bytes);
  ssize_t written = -1;
  do {
    written = ::write(fd_.get(), record.data(), record.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(record.size())) {
    size_ += record.size();
    return absl::OkStatus();
  }
  const int error = written < 0 ? errno : ENOSPC;
  // What follows half a record would never be read.
  if (written > 0 && ::ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0) fd_.Reset();
  return ErrnoStatus(error, "cannot write to", PathOf(segments_.back().number));
}

bool SpoolFile::Append(SpoolKind kind, int64_t number, std::string_view bytes) {
  used_[kind] = std::max(used_[kind], number);
  absl::Status status;
  bool begun = false;
  if (bytes.size() + kBodyHead > kMaxRecordBytes) {
    status = absl::OutOfRangeError(absl::StrCat("a record of ", bytes.size(), " bytes"));
  } else {
    if (!fd_.valid() || size_ >= kSegmentBytes) {
      status = BeginSegment();
      begun = status.ok();
    }
    if (status.ok()) status = Write(static_cast<uint8_t>(kind), number, bytes);
  }
  if (status.ok()) {
    int64_t& newest = segments_.back().newest[kind];
    newest = std::max(newest, number);
  } else if (!failing_) {
    MF_LOG(ERROR) << "the spool cannot be written, so an agent that is killed loses what the "
                     "coordinator has not heard: "
                  << status;
  }
  failing_ = !status.ok();
  return begun;
}

void SpoolFile::IsRepeatedFrom(int64_t segment, SpoolKind kind) {
  for (Segment& older : segments_) {
    if (older.number < segment) older.newest[kind] = 0;
  }
}

void SpoolFile::Forget(const SpoolNumbers& oldest) {
  const auto is_waiting = [&](const Segment& segment) {
    for (size_t i = 0; i < oldest.of.size(); ++i) {
      if (segment.newest.of[i] > 0 && segment.newest.of[i] >= oldest.of[i]) return true;
    }
    return false;
  };
  if (segments_.empty()) return;
  if (size_ > kIdleBytes && !is_waiting(segments_.back()) && !BeginSegment().ok()) return;
  if (!fd_.valid()) return;  // none of them is sure to be followed by one with the numbers
  for (auto segment = segments_.begin(); segment + 1 != segments_.end();) {
    if (is_waiting(*segment)) {
      ++segment;
      continue;
    }
    if (const absl::Status status = RemoveTree(PathOf(segment->number)); !status.ok()) {
      MF_LOG(WARNING) << "a spool segment that is done with stays: " << status;
      return;
    }
    segment = segments_.erase(segment);
  }
}

}  // namespace mindforge
