// Charts of each job for TensorBoard, as a projection of the store: whatever happened to the
// coordinator, a job's event file ends up with each recorded step once, in order, and each
// milestone. Nothing waits for it, and nothing is lost with it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/store/store.h"
#include "coordinator/tracking/event_file.h"

namespace mindforge {

// What charts need to know of a job besides its history.
struct TrackedJob {
  JobId id;
  std::string name;
  absl::Time submitted_at;
  bool ended = false;
  int64_t last_step = 0;       // on record; 0: none
  int64_t last_milestone = 0;  // its number; 0: none
};

// The jobs as they are now. Thread-safe.
class TrackedJobs {
 public:
  virtual ~TrackedJobs() = default;
  // As it is durable; none: deleted.
  virtual std::optional<TrackedJob> Find(const JobId& id) const = 0;
  // May be ahead of what is durable.
  virtual std::vector<TrackedJob> All() const = 0;
};

// Writes FOLDER/<job>/events.out.tfevents.* where <job> is the job's name, or its id when the name
// is another job's already. Thread-safe. Borrows what it is given.
class Tracker {
 public:
  struct Options {
    std::string folder;
    // Between two rounds: what happens meanwhile is written together.
    absl::Duration pause = absl::Milliseconds(500);
    // How long a live job's chart waits for a step whose record is late before it goes on.
    absl::Duration gap_patience = absl::Minutes(1);
    // A file that could not be written is tried again after so long.
    absl::Duration retry = absl::Seconds(10);
    // Jobs noted as changed; beyond, all are looked at.
    size_t max_waiting = 4'096;
  };

  Tracker(Store& store, const TrackedJobs& jobs, const Clock& clock, Options options)
      : store_(store), jobs_(jobs), clock_(clock), options_(std::move(options)) {}
  ~Tracker();
  Tracker(const Tracker&) = delete;
  Tracker& operator=(const Tracker&) = delete;

  // Starts the thread. Tests call CatchUp instead.
  void Start();

  // Ends the thread. Idempotent; the destructor does it too.
  void Stop();

  // Something durable is new of these jobs, or they are gone. Never blocks.
  void Changed(const std::vector<JobId>& jobs);

  // Brings the files of all changed jobs up to date; at the first call those of all jobs.
  // REQUIRES: one caller at a time.
  void CatchUp();

 private:
  // A job's file and how far it is.
  struct Cursor {
    std::string folder;
    std::string path;
    EventFileEnd end;
    std::optional<absl::Duration> gap_since;  // the next record is not of the next step
  };

  void Run();
  bool Stopping() const;
  std::set<JobId> TakeWaiting();
  void Update(const TrackedJob& job);
  absl::Status Write(const TrackedJob& job, Cursor& cursor, bool* complete);
  std::string FolderOf(const TrackedJob& job) const;
  // The frames of the next records and milestones; empty: there are none.
  absl::StatusOr<std::string> NextFrames(const TrackedJob& job, Cursor& cursor);
  bool MayWrite(const TrackedJob& job, Cursor& cursor, int64_t step);
  void Remove(const JobId& job);

  Store& store_;
  const TrackedJobs& jobs_;
  const Clock& clock_;
  const Options options_;

  // CatchUp's own.
  std::map<JobId, Cursor> cursors_;            // live jobs'
  std::map<JobId, absl::Duration> try_again_;  // when
  std::set<JobId> failing_;                    // said in the log

  mutable Mutex mutex_;
  CondVar changed_;
  std::set<JobId> waiting_ ABSL_GUARDED_BY(mutex_);
  bool all_ ABSL_GUARDED_BY(mutex_) = true;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // files can take as long as the disk likes
};

}  // namespace mindforge
