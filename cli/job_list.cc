#include "cli/job_list.h"

#include "common/status_macros.h"

namespace mindforge::cli {
namespace {

constexpr int kPageSize = 1000;  // the most that the server gives

}  // namespace

absl::StatusOr<v1::ListJobsResponse> ListAllJobs(Session& session, v1::JobService::Stub& stub,
                                                 v1::ListJobsRequest request,
                                                 absl::Duration timeout) {
  request.set_page_size(kPageSize);
  request.clear_page_token();
  v1::ListJobsResponse all;
  do {
    ASSIGN_OR_RETURN(v1::ListJobsResponse page,
                     Call(session, {.what = "list jobs", .timeout = timeout}, stub,
                          &v1::JobService::Stub::ListJobs, request));
    request.set_page_token(page.next_page_token());
    page.clear_next_page_token();
    all.MergeFrom(page);
  } while (!request.page_token().empty());
  return all;
}

}  // namespace mindforge::cli
