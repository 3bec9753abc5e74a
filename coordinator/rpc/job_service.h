// JobService: validate, convert, ask the shell, convert back.
#pragma once

#include "coordinator/rpc/core.h"
#include "coordinator/rpc/job_streams.h"
#include "mindforge/v1/job_service.grpc.pb.h"

namespace mindforge {

// Thread-safe. Borrows both, which outlive the gRPC server. Drain `streams` before that server, or
// followers hold it up.
class JobService : public v1::JobService::CallbackService {
 public:
  JobService(Core& core, OpenStreams& streams) : core_(core), streams_(streams) {}

  grpc::ServerUnaryReactor* SubmitJob(grpc::CallbackServerContext* context,
                                      const v1::SubmitJobRequest* request,
                                      v1::SubmitJobResponse* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const v1::GetJobRequest* request,
                                   v1::GetJobResponse* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const v1::CancelJobRequest* request,
                                      v1::CancelJobResponse* response) override;
  grpc::ServerUnaryReactor* PauseJob(grpc::CallbackServerContext* context,
                                     const v1::PauseJobRequest* request,
                                     v1::PauseJobResponse* response) override;
  grpc::ServerUnaryReactor* ResumeJob(grpc::CallbackServerContext* context,
                                      const v1::ResumeJobRequest* request,
                                      v1::ResumeJobResponse* response) override;
  grpc::ServerUnaryReactor* ScaleJob(grpc::CallbackServerContext* context,
                                     const v1::ScaleJobRequest* request,
                                     v1::ScaleJobResponse* response) override;
  grpc::ServerUnaryReactor* RepinJob(grpc::CallbackServerContext* context,
                                     const v1::RepinJobRequest* request,
                                     v1::RepinJobResponse* response) override;
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* context,
                                      const v1::DeleteJobRequest* request,
                                      v1::DeleteJobResponse* response) override;
  grpc::ServerWriteReactor<v1::StreamJobLogsResponse>* StreamJobLogs(
      grpc::CallbackServerContext* context, const v1::StreamJobLogsRequest* request) override;
  grpc::ServerWriteReactor<v1::StreamJobMetricsResponse>* StreamJobMetrics(
      grpc::CallbackServerContext* context, const v1::StreamJobMetricsRequest* request) override;

 private:
  Core& core_;
  OpenStreams& streams_;
};

}  // namespace mindforge
