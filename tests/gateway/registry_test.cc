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

// As the coordinator's timer does: looks before a stall could be suspected.
void Pass(absl::Duration time, FakeClock& clock, const InferenceRegistry& registry) {
  constexpr absl::Duration kTick = absl::Seconds(1);
  for (; time > kTick; time -= kTick) {
    clock.Advance(kTick);
    registry.Live();
  }
  clock.Advance(time);
}

TEST(Registry, ForgetsAWorkerExactlyWhenItsLeaseRunsOut) {
  FakeClock clock;
  InferenceRegistry registry(clock, absl::Seconds(10));
  registry.Report(Report("a"));
  Pass(absl::Seconds(10) - absl::Nanoseconds(1), clock, registry);
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
  Pass(absl::Seconds(9), clock, registry);
  registry.Report(Report("a"));
  Pass(absl::Seconds(9), clock, registry);
  EXPECT_EQ(registry.Live().size(), 1u);
}

TEST(Registry, AStallOfThisProcessExpiresNobody) {
  FakeClock clock;
  InferenceRegistry registry(clock, absl::Seconds(10), /*stall=*/absl::Seconds(2));
  registry.Report(Report("a"));
  Pass(absl::Seconds(5), clock, registry);
  EXPECT_EQ(registry.Live().size(), 1u);
  clock.Advance(absl::Hours(1));  // the process was stopped, or its machine asleep
  EXPECT_EQ(registry.Live().size(), 1u);
  EXPECT_TRUE(registry.Expire().empty());
  // 5 s and the 2 s of the gap that count have gone: 3 s are left.
  Pass(absl::Seconds(3) - absl::Nanoseconds(1), clock, registry);
  EXPECT_EQ(registry.Live().size(), 1u);
  clock.Advance(absl::Nanoseconds(1));
  EXPECT_EQ(registry.Expire().size(), 1u);
}

}  // namespace
}  // namespace mindforge
