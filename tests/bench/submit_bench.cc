// How many durable submits a second one connection carries: submit_bench HOST:PORT [COUNT
// [WINDOW]].
//
// Each job is on disk before its reply; WINDOW calls are under way at once.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/check.h"
#include "common/grpc_client.h"
#include "common/mutex.h"
#include "common/random_id.h"
#include "mindforge/v1/job_service.grpc.pb.h"
#include "tests/coordinator/good_job.h"

namespace mindforge {
namespace {

struct Call {
  grpc::ClientContext context;
  v1::SubmitJobRequest request;
  v1::SubmitJobResponse response;
};

class Bench {
 public:
  Bench(v1::JobService::Stub& stub, int count) : stub_(stub), count_(count) {}

  // Keeps `window` calls under way until all are answered; the number that failed.
  int Run(int window) {
    for (int i = 0; i < window; ++i) Next();
    MutexLock lock(mutex_);
    done_.Wait(mutex_, [&] {
      mutex_.AssertHeld();
      return answered_ == count_;
    });
    return failed_;
  }

 private:
  void Next() {
    int number = 0;
    {
      MutexLock lock(mutex_);
      if (sent_ == count_) return;
      number = sent_++;
    }
    auto call = std::make_shared<Call>();
    SetDeadline(call->context, absl::Seconds(60));
    *call->request.mutable_job() = GoodJob(absl::StrCat(prefix_, "-", number));
    call->request.set_request_id(absl::StrCat(prefix_, "-", number));
    stub_.async()->SubmitJob(&call->context, &call->request, &call->response,
                             [this, call](grpc::Status status) {
                               Next();
                               MutexLock lock(mutex_);
                               ++answered_;
                               failed_ += !status.ok();
                               if (answered_ == count_) done_.SignalAll();
                             });
  }

  v1::JobService::Stub& stub_;
  const int count_;
  const std::string prefix_ = RandomId();
  Mutex mutex_;
  CondVar done_;
  int sent_ ABSL_GUARDED_BY(mutex_) = 0;
  int answered_ ABSL_GUARDED_BY(mutex_) = 0;
  int failed_ ABSL_GUARDED_BY(mutex_) = 0;
};

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: submit_bench HOST:PORT [COUNT [WINDOW]]\n");
    return 2;
  }
  const int count = argc > 2 ? std::atoi(argv[2]) : 1000;
  const int window = argc > 3 ? std::atoi(argv[3]) : 256;
  const auto channel = MakeChannel(argv[1]);
  MF_CHECK_OK(channel.status());
  const auto stub = v1::JobService::NewStub(*channel);
  Bench warm_up(*stub, 1);
  warm_up.Run(1);
  const absl::Time start = absl::Now();
  Bench bench(*stub, count);
  const int failed = bench.Run(window);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::printf("%d durable submits in %.3f s: %.0f a second (%d failed, window %d)\n", count,
              seconds, count / seconds, failed, window);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) { return mindforge::Main(argc, argv); }
