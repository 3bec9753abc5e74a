// What a coordinator's configuration may say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error_details.h"
#include "coordinator/coordinator.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TEST(CoordinatorOptions, AParkIsShorterThanAgentsWaitForAnAnswer) {
  v1::CoordinatorConfig config;
  config.set_worker_lease("60s");
  config.set_synchronize_park("20s");
  ASSERT_TRUE(ParseOptions(config).ok()) << ParseOptions(config).status();
  EXPECT_EQ(ParseOptions(config)->synchronize_park, absl::Seconds(20));
  config.set_synchronize_park("21s");
  const absl::Status refused = ParseOptions(config).status();
  ASSERT_EQ(GetViolations(refused).size(), 1u);
  EXPECT_EQ(GetViolations(refused)[0].field, "synchronize_park");
  EXPECT_THAT(GetViolations(refused)[0].description, HasSubstr("must be from 10ms to 20s"));
}

}  // namespace
}  // namespace mindforge
