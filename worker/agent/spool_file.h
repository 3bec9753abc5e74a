// The spool on disk: what the agent has to tell outlives the agent.
//
// Records are appended to segments, each with a checksum; a segment goes when nothing in it is
// waiting any more, or what is has been written again into a newer one. Nothing is synced: a killed
// process loses nothing that it wrote, a machine that loses power may lose the last seconds, and a
// torn tail is left out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace mindforge {

enum class SpoolKind { kProgress = 1, kLog = 2, kCheckpoint = 3, kCorruption = 4 };
// A number for each kind.
struct SpoolNumbers {
  std::array<int64_t, 4> of = {0, 0, 0, 0};
  int64_t& operator[](SpoolKind kind) { return of[static_cast<size_t>(kind) - 1]; }
  int64_t operator[](SpoolKind kind) const { return of[static_cast<size_t>(kind) - 1]; }
};

// Not thread-safe.
class SpoolFile {
 public:
  // Opens `folder`, made when it is not there.
  static absl::StatusOr<std::unique_ptr<SpoolFile>> Open(const std::string& folder);

  // Names this spool's numbers. A spool that was lost gets another name.
  const std::string& id() const { return id_; }

  // Gives what an agent before this one left, oldest first, and returns the numbers above which new
  // records are numbered: beyond all that were ever used, those of a lost tail included.
  // REQUIRES: called once, before Append.
  SpoolNumbers Replay(
      const std::function<void(SpoolKind, int64_t number, std::string_view bytes)>& take);

  // A record that cannot be written (a full disk) is said in the log, once; it lives in memory
  // then. A number that was used before may be written again. True when a segment was begun for it.
  bool Append(SpoolKind kind, int64_t number, std::string_view bytes);

  // Deletes segments in which nothing is waiting. `oldest`: the oldest number of each kind that is;
  // one above the newest used where none is.
  void Forget(const SpoolNumbers& oldest);

  // The number of the segment that is written to; and that older ones hold nothing of `kind` that
  // is not in it or in newer ones too.
  int64_t segment() const { return segments_.empty() ? 0 : segments_.back().number; }
  void IsRepeatedFrom(int64_t segment, SpoolKind kind);

  // The last record could not be written.
  bool failing() const { return failing_; }

 private:
  struct Segment {
    int64_t number = 0;
    SpoolNumbers newest;  // 0: none of this kind in it
  };

  explicit SpoolFile(std::string folder) : folder_(std::move(folder)) {}
  absl::Status Load();
  std::string PathOf(int64_t segment) const;
  absl::Status BeginSegment();
  absl::Status Write(uint8_t kind, int64_t number, std::string_view bytes);
  void ReplaySegment(
      Segment& segment,
      const std::function<void(SpoolKind, int64_t number, std::string_view bytes)>& take);

  const std::string folder_;
  std::string id_;
  std::deque<Segment> segments_;  // the last is appended to, once there is `fd_`
  SpoolNumbers used_;
  UniqueFd fd_;
  size_t size_ = 0;  // of the last segment
  bool failing_ = false;
};

}  // namespace mindforge
