// A group of ranks that are threads of one process, over the real transports on loopback.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "common/net.h"
#include "worker/dist/process_group.h"

namespace mindforge {

// Runs `body` as each of `world_size` ranks and waits for all. Every rank must be able to join.
inline void RunRanks(int world_size, const std::function<void(ProcessGroup& group)>& body) {
  auto socket = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(socket.ok()) << socket.status();
  const int port = socket->port;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    const int fd = rank == 0 ? socket->fd.Release() : -1;
    ranks.emplace_back([=, &body] {
      auto group = ProcessGroup::Join({.rank = rank,
                                       .world_size = world_size,
                                       .generation = 1,
                                       .store_fd = fd,
                                       .store_host = "127.0.0.1",
                                       .store_port = port,
                                       .join_timeout = absl::Seconds(30)});
      ASSERT_TRUE(group.ok()) << group.status();
      body(**group);
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

}  // namespace mindforge
