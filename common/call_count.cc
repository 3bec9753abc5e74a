#include "common/call_count.h"

#include <utility>

#include "absl/strings/match.h"

namespace mindforge {
namespace {

// Lives as long as its call.
class CountInterceptor : public grpc::experimental::Interceptor {
 public:
  explicit CountInterceptor(std::shared_ptr<CallCount> count) : count_(std::move(count)) {
    count_->Add(1);
  }
  ~CountInterceptor() override { count_->Add(-1); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    methods->Proceed();
  }

 private:
  const std::shared_ptr<CallCount> count_;
};

class CountInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CountInterceptorFactory(std::shared_ptr<CallCount> count) : count_(std::move(count)) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* call) override {
    if (absl::StartsWith(call->method(), "/grpc.")) return nullptr;
    return new CountInterceptor(count_);
  }

 private:
  const std::shared_ptr<CallCount> count_;
};

}  // namespace

void CallCount::Add(int64_t calls) {
  MutexLock lock(mutex_);
  calls_ += calls;
  if (calls_ == 0) none_.SignalAll();
}

bool CallCount::WaitForNone(absl::Duration timeout) {
  MutexLock lock(mutex_);
  return none_.WaitFor(mutex_, timeout, [this] {
    mutex_.AssertHeld();
    return calls_ == 0;
  });
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCountInterceptor(
    std::shared_ptr<CallCount> count) {
  return std::make_unique<CountInterceptorFactory>(std::move(count));
}

}  // namespace mindforge
