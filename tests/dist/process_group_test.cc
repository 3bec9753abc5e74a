#include "worker/dist/process_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "common/clock.h"
#include "common/net.h"
#include "tests/fakes/local_group.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);

TEST(ProcessGroup, GathersFromAllToAllAndBroadcasts) {
  RunRanks(3, [](ProcessGroup& group) {
    const int64_t mine = 100 + group.rank();
    std::vector<int64_t> all(3);
    for (int round = 0; round < 5; ++round) {
      ASSERT_TRUE(group.AllGather(&mine, all.data(), sizeof(mine), 1, kTimeout).ok());
      EXPECT_EQ(all, (std::vector<int64_t>{100, 101, 102}));
    }
    std::vector<float> values(100000, group.rank() == 0 ? 2.5f : 0.0f);
    ASSERT_TRUE(
        group.BroadcastDevice(values.data(), values.size() * sizeof(float), 2, kTimeout).ok());
    EXPECT_EQ(values.front(), 2.5f);
    EXPECT_EQ(values.back(), 2.5f);
  });
}

TEST(ProcessGroup, TagsKeepTransfersApart) {
  RunRanks(2, [](ProcessGroup& group) {
    const int peer = 1 - group.rank();
    std::vector<int32_t> out{group.rank() * 10 + 1, group.rank() * 10 + 2};
    std::vector<int32_t> in(2);
    std::vector<Transfer> transfers;
    for (const uint32_t tag : {0u, 1u}) {
      transfers.push_back({Transfer::Kind::kReceive, peer, 5 + tag, &in[tag], sizeof(int32_t)});
    }
    for (const uint32_t tag : {1u, 0u}) {
      transfers.push_back({Transfer::Kind::kSend, peer, 5 + tag, &out[tag], sizeof(int32_t)});
    }
    ASSERT_TRUE(group.ExchangeHost(transfers, kTimeout).ok());
    EXPECT_EQ(in, (std::vector<int32_t>{peer * 10 + 1, peer * 10 + 2}));
  });
}

TEST(ProcessGroup, APeerThatLeavesIsNoticedLongBeforeTheTimeout) {
  const RealClock clock;
  RunRanks(2, [&clock](ProcessGroup& group) {
    if (group.rank() == 1) return;  // leaves: its end of the connection closes
    const absl::Duration start = clock.MonotonicNow();
    int64_t value = 0;
    const Transfer receive{Transfer::Kind::kReceive, 1, 1, &value, sizeof(value)};
    const absl::Status status = group.ExchangeHost({receive}, kTimeout);
    EXPECT_TRUE(IsPeerLost(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("rank 0 lost rank 1"));
    EXPECT_LT(clock.MonotonicNow() - start, absl::Seconds(10));
  });
}

TEST(ProcessGroup, AHungPeerIsGivenUpAtTheTimeout) {
  std::atomic<bool> given_up = false;
  RunRanks(2, [&given_up](ProcessGroup& group) {
    if (group.rank() == 1) {
      given_up.wait(false);
      return;
    }
    int64_t value = 0;
    const Transfer receive{Transfer::Kind::kReceive, 1, 1, &value, sizeof(value)};
    const absl::Status status = group.ExchangeHost({receive}, absl::Milliseconds(50));
    EXPECT_TRUE(IsPeerLost(status)) << status;
    given_up = true;
    given_up.notify_all();
  });
}

TEST(ProcessGroup, AMissingPeerIsGivenUpWhenItIsLongOverdue) {
  auto socket = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(socket.ok());
  const auto group = ProcessGroup::Join({.rank = 0,
                                         .world_size = 2,
                                         .store_fd = socket->fd.Release(),
                                         .arrival_timeout = absl::Milliseconds(300),
                                         .join_timeout = absl::Hours(1)});
  EXPECT_TRUE(IsPeerLost(group.status())) << group.status();
  EXPECT_THAT(group.status().message(), HasSubstr("waited in vain"));
}

TEST(ProcessGroup, AStoreThatCannotBeReachedIsGivenUpAtOnce) {
  int port = 0;
  {
    const auto closed = ListenTcp("127.0.0.1", 0);
    ASSERT_TRUE(closed.ok());
    port = closed->port;
  }
  const auto group = ProcessGroup::Join({.rank = 1,
                                         .world_size = 2,
                                         .store_host = "127.0.0.1",
                                         .store_port = port,
                                         .arrival_timeout = absl::Hours(1)});
  EXPECT_TRUE(IsPeerLost(group.status())) << group.status();
  EXPECT_THAT(group.status().message(), HasSubstr("Connection refused"));
}

TEST(ProcessGroup, AForeignAdvertisedHostIsNotAPeersFault) {
  const auto group = ProcessGroup::Join(
      {.rank = 1, .world_size = 2, .store_host = "127.0.0.1", .advertise_host = "192.0.2.1"});
  EXPECT_FALSE(group.ok());
  EXPECT_FALSE(IsPeerLost(group.status())) << group.status();
  EXPECT_THAT(group.status().message(), HasSubstr("192.0.2.1"));
}

TEST(ProcessGroup, AGroupOfOneNeedsNobody) {
  const auto group = ProcessGroup::Join({});
  ASSERT_TRUE(group.ok());
  int64_t mine = 3, all = 0;
  EXPECT_TRUE((*group)->AllGather(&mine, &all, sizeof(mine), 1, kTimeout).ok());
  EXPECT_EQ(all, 3);
}

}  // namespace
}  // namespace mindforge
