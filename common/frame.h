// Length-prefixed frames over a stream socket: 4 bytes little-endian length, then that many bytes.
// Agent and trainer speak so over the socketpair on descriptor 3, with protos inside.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/deadline.h"
#include "common/mutex.h"
#include "google/protobuf/message_lite.h"

namespace mindforge {

inline constexpr size_t kMaxFrameBytes = 4 << 20;

// Reads frames from a descriptor that it borrows. For one thread.
class FrameReader {
 public:
  explicit FrameReader(int fd) : fd_(fd) {}

  // The next frame. DEADLINE_EXCEEDED: none is complete yet; nothing is lost, call again.
  // OUT_OF_RANGE: the other side closed between two frames. DATA_LOSS: it closed inside one, or the
  // length is above kMaxFrameBytes. UNAVAILABLE: the read failed.
  absl::StatusOr<std::string> Read(absl::Duration timeout = absl::InfiniteDuration());

  // As Read, parsed. DATA_LOSS when the bytes are no such message.
  absl::Status ReadMessage(google::protobuf::MessageLite* message,
                           absl::Duration timeout = absl::InfiniteDuration());

 private:
  // Fills buffer_ up to `bytes`.
  absl::Status Fill(size_t bytes, const Deadline& deadline);

  const int fd_;
  std::string buffer_;
};

// Writes frames to a descriptor that it borrows. Thread-safe: frames do not mix.
class FrameWriter {
 public:
  explicit FrameWriter(int fd) : fd_(fd) {}

  // OK: all bytes are handed to the kernel. INVALID_ARGUMENT: longer than kMaxFrameBytes, nothing
  // was written. DEADLINE_EXCEEDED, UNAVAILABLE: the stream may hold half a frame, and every later
  // write fails.
  absl::Status Write(std::string_view frame, absl::Duration timeout = absl::InfiniteDuration());
  absl::Status WriteMessage(const google::protobuf::MessageLite& message,
                            absl::Duration timeout = absl::InfiniteDuration());

 private:
  absl::Status WriteAll(std::string_view bytes, const Deadline& deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int fd_;
  Mutex mutex_;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
