#include "common/frame.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr size_t kHeaderBytes = 4;

// Waits for `events`; false when `deadline` passed.
absl::StatusOr<bool> PollUntil(int fd, short events, const Deadline& deadline) {
  while (true) {
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, deadline.PollMilliseconds());
    if (ready > 0) return true;
    if (ready == 0) return false;
    if (errno != EINTR) return ErrnoStatus(errno, "cannot wait on", "the frame stream");
  }
}

uint32_t DecodeLength(const std::string& bytes) {
  uint32_t length = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) {
    length |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return length;
}

std::string EncodeLength(size_t length) {
  std::string bytes;
  for (size_t i = 0; i < kHeaderBytes; ++i) {
    bytes.push_back(static_cast<char>((length >> (8 * i)) & 0xFF));
  }
  return bytes;
}

}  // namespace

absl::Status FrameReader::Fill(size_t bytes, const Deadline& deadline) {
  char chunk[1 << 16];
  while (buffer_.size() < bytes) {
    ASSIGN_OR_RETURN(const bool ready, PollUntil(fd_, POLLIN, deadline));
    if (!ready) return absl::DeadlineExceededError("no complete frame in time");
    // Never beyond the frame: what follows stays in the kernel for poll to see.
    const size_t want = std::min(sizeof(chunk), bytes - buffer_.size());
    const ssize_t got = ::read(fd_, chunk, want);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0 && errno != ECONNRESET) return ErrnoStatus(errno, "cannot read", "a frame");
    if (got <= 0) {
      if (buffer_.empty()) return absl::OutOfRangeError("the other side closed the stream");
      return absl::DataLossError("the stream ended inside a frame");
    }
    buffer_.append(chunk, static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FrameReader::Read(absl::Duration timeout) {
  const Deadline deadline(timeout);
  RETURN_IF_ERROR(Fill(kHeaderBytes, deadline));
  const size_t length = DecodeLength(buffer_);
  if (length > kMaxFrameBytes) {
    return absl::DataLossError(
        absl::StrCat("a frame claims ", length, " bytes, the limit is ", kMaxFrameBytes));
  }
  RETURN_IF_ERROR(Fill(kHeaderBytes + length, deadline));
  std::string frame = buffer_.substr(kHeaderBytes);
  buffer_.clear();
  return frame;
}

absl::Status FrameReader::ReadMessage(google::protobuf::MessageLite* message,
                                      absl::Duration timeout) {
  ASSIGN_OR_RETURN(const std::string frame, Read(timeout));
  if (!message->ParseFromString(frame)) {
    return absl::DataLossError(
        absl::StrCat("a frame of ", frame.size(), " bytes is no ", message->GetTypeName()));
  }
  return absl::OkStatus();
}

absl::Status FrameWriter::WriteAll(std::string_view bytes, const Deadline& deadline) {
  while (!bytes.empty()) {
    ssize_t wrote = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (wrote < 0 && errno == ENOTSOCK) wrote = ::write(fd_, bytes.data(), bytes.size());
    if (wrote >= 0) {
      bytes.remove_prefix(static_cast<size_t>(wrote));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return ErrnoStatus(errno, "cannot write", "a frame");
    ASSIGN_OR_RETURN(const bool ready, PollUntil(fd_, POLLOUT, deadline));
    if (!ready) return absl::DeadlineExceededError("the other side does not read its frames");
  }
  return absl::OkStatus();
}

absl::Status FrameWriter::Write(std::string_view frame, absl::Duration timeout) {
  if (frame.size() > kMaxFrameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame of ", frame.size(), " bytes is over the limit of ", kMaxFrameBytes));
  }
  const std::string bytes = EncodeLength(frame.size()) + std::string(frame);
  MutexLock lock(mutex_);
  if (!broken_.ok()) return broken_;
  broken_ = WriteAll(bytes, Deadline(timeout));
  return broken_;
}

absl::Status FrameWriter::WriteMessage(const google::protobuf::MessageLite& message,
                                       absl::Duration timeout) {
  return Write(message.SerializeAsString(), timeout);
}

}  // namespace mindforge
