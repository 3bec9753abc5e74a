// The streams that follow a job: its state, its log lines, its progress records. Each is parked on
// the shell's wake-ups; no thread waits.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "common/mutex.h"
#include "coordinator/rpc/core.h"
#include "grpcpp/support/server_callback.h"
#include "mindforge/v1/job_service.pb.h"

namespace mindforge {

// All open streams of a server, so that a drain can end them. Thread-safe.
class StreamSet {
 public:
  // `end` is called once, at Shutdown or at once after it. The key removes it again; 0: it was
  // called already.
  int64_t Add(std::function<void()> end);
  void Remove(int64_t key);
  void Shutdown();

 private:
  Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int64_t, std::function<void()>> ends_ ABSL_GUARDED_BY(mutex_);
};

grpc::ServerWriteReactor<v1::WatchJobResponse>* StartWatch(Core& core, StreamSet& streams,
                                                           const v1::WatchJobRequest& request);
grpc::ServerWriteReactor<v1::StreamJobLogsResponse>* StartLogs(
    Core& core, StreamSet& streams, const v1::StreamJobLogsRequest& request);
grpc::ServerWriteReactor<v1::StreamJobMetricsResponse>* StartMetrics(
    Core& core, StreamSet& streams, const v1::StreamJobMetricsRequest& request);

}  // namespace mindforge
