#include "coordinator/gateway/registry.h"

#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"

namespace mindforge {
namespace {

v1::InferenceAgentServiceSynchronizeRequest Report(const std::string& id) {
  v1::InferenceAgentServiceSynchronizeRequest report;
  report.set_worker_id(id);
  return report;
}

TEST(Registry, ForgetsAWorkerExactlyWhenItsLeaseRunsOut) {
  FakeClock clock;
  InferenceRegistry registry(clock, absl::Seconds(10));
  registry.Report(Report("a"));
  clock.Advance(absl::Seconds(10) - absl::Nanoseconds(1));
  EXPECT_EQ(registry.Live().size(), 1u);
  EXPECT_TRUE(registry.Expire().empty());
  clock.Advance(absl::Nanoseconds(1));
  EXPECT_TRUE(registry.Live().empty());
  EXPECT_FALSE(registry.Find(WorkerId("a")).has_value());
  ASSERT_EQ(registry.Expire().size(), 1u);
  EXPECT_TRUE(registry.Expire().empty());
}

TEST(Registry, RenewsALeaseWithEachReport) {
  FakeClock clock;
  InferenceRegistry registry(clock, absl::Seconds(10));
  registry.Report(Report("a"));
  clock.Advance(absl::Seconds(9));
  registry.Report(Report("a"));
  clock.Advance(absl::Seconds(9));
  EXPECT_EQ(registry.Live().size(), 1u);
}

}  // namespace
}  // namespace mindforge
