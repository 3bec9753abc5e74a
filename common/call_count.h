// How many calls of a gRPC server are under way, so that a drain knows when none is left.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "grpcpp/support/server_interceptor.h"

namespace mindforge {

// Thread-safe.
class CallCount {
 public:
  void Add(int64_t calls);
  // Waits until no call is under way; false when `timeout` passed first.
  bool WaitForNone(absl::Duration timeout);

 private:
  Mutex mutex_;
  CondVar none_;
  int64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Counts each call from its arrival until gRPC has let go of it. Not those of gRPC's own services:
// who watches a server's health or keeps its reflection open does so for as long as it is there.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCountInterceptor(
    std::shared_ptr<CallCount> count);

}  // namespace mindforge
