// A gRPC service in front of another: every request of every method is admitted, measured and
// checked here before it is a message, so that no handler has to, and none can forget to.
//
// gRPC answers a request that it cannot parse with UNIMPLEMENTED and no word, and its interceptors
// cannot refuse a call: hence this, at the level of its method handlers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/call_budget.h"
#include "grpcpp/impl/service_type.h"

namespace mindforge {

// Offers the methods of `inner`, a CallbackService of the service `full_name`
// ("mindforge.v1.JobService"), and ends a call before its handler runs
//   RESOURCE_EXHAUSTED  when the request is larger than `max_request_bytes`, or `budget` has no
//   room, INVALID_ARGUMENT    when the request has text that is not UTF-8 (the field is named), or
//   is no
//                       message of the method's type.
// Borrows `inner`, which outlives it.
class CheckedService : public grpc::Service {
 public:
  CheckedService(const std::string& full_name, grpc::Service& inner, size_t max_request_bytes,
                 std::shared_ptr<CallBudget> budget);

 private:
  std::vector<std::unique_ptr<std::string>> names_;  // gRPC keeps pointers to them
};

}  // namespace mindforge
