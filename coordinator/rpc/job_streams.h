// The streams that follow a job: its state, its log lines, its progress records. Each is parked on
// the shell's wake-ups; no thread waits.
#pragma once

#include "common/open_streams.h"
#include "coordinator/rpc/core.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "mindforge/v1/job_service.pb.h"

namespace mindforge {

grpc::ServerWriteReactor<v1::WatchJobResponse>* StartWatch(Core& core, OpenStreams& streams,
                                                           grpc::CallbackServerContext* context,
                                                           const v1::WatchJobRequest& request);
grpc::ServerWriteReactor<v1::StreamJobLogsResponse>* StartLogs(
    Core& core, OpenStreams& streams, grpc::CallbackServerContext* context,
    const v1::StreamJobLogsRequest& request);
grpc::ServerWriteReactor<v1::StreamJobMetricsResponse>* StartMetrics(
    Core& core, OpenStreams& streams, grpc::CallbackServerContext* context,
    const v1::StreamJobMetricsRequest& request);

}  // namespace mindforge
