#include "worker/dist/gloo_group.h"

#include <ATen/ops/from_blob.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/durable_file.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "worker/dist/group_backends.h"

namespace mindforge {
namespace {

std::chrono::milliseconds Milliseconds(absl::Duration duration) {
  return std::chrono::milliseconds(std::max<int64_t>(1, absl::ToInt64Milliseconds(duration)));
}

// Where this process reaches the store that listens on `fd`.
absl::StatusOr<HostPort> LocalAddress(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(errno, "the store's listening socket", absl::StrCat("fd ", fd));
  }
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    return HostPort{text, ntohs(v4.sin_port)};
  }
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    return HostPort{text, ntohs(v6.sin6_port)};
  }
  return absl::InternalError(absl::StrCat("fd ", fd, " is no listening TCP socket"));
}

absl::StatusOr<c10::intrusive_ptr<c10d::Store>> OpenStore(const ProcessGroupOptions& options) {
  HostPort address{options.store_host, options.store_port};
  c10d::TCPStoreOptions store;
  store.waitWorkers = false;  // connecting the mesh waits for all
  // The store answers when rank 0 has warmed up.
  store.timeout = Milliseconds(options.arrival_timeout);
  if (options.rank == 0) {
    ASSIGN_OR_RETURN(address, LocalAddress(options.store_fd));
    store.isServer = true;
    store.masterListenFd = options.store_fd;
  } else {
    // It listens since before rank 0 started: one that cannot be reached now will not be later.
    const auto reached = ConnectTcp(address, options.join_timeout);
    if (!reached.ok()) {
      return PeerLost(absl::StrCat("rank ", options.rank, " cannot reach the group's store: ",
                                   std::string(reached.status().message())));
    }
  }
  store.port = static_cast<uint16_t>(address.port);
  try {
    auto tcp = c10::make_intrusive<c10d::TCPStore>(address.host, store);
    return c10::intrusive_ptr<c10d::Store>(c10::make_intrusive<c10d::PrefixStore>(
        absl::StrCat("generation-", options.generation), std::move(tcp)));
  } catch (const std::exception& error) {
    return PeerLost(absl::StrCat("rank ", options.rank, " cannot reach the group's store at ",
                                 address.ToString(), ": ", FirstLine(error)));
  }
}

absl::StatusOr<std::shared_ptr<gloo::transport::Device>> OpenDevice(const std::string& host) {
  try {
    return c10d::ProcessGroupGloo::createDeviceForHostname(host);
  } catch (const std::exception& error) {
    return absl::NotFoundError(absl::StrCat("this worker advertises '", host,
                                            "', which is none of its addresses: ", FirstLine(error),
                                            "; set --advertise to one that peers reach"));
  }
}

// Waits until every rank has come this far.
absl::Status WaitForAll(const ProcessGroupOptions& options, c10d::Store& store) {
  const auto key = [](int rank) { return absl::StrCat("arrived-", rank); };
  std::vector<std::string> keys;
  for (int rank = 0; rank < options.world_size; ++rank) keys.push_back(key(rank));
  try {
    store.set(key(options.rank), std::vector<uint8_t>{1});
    store.wait(keys, Milliseconds(options.arrival_timeout));
    store.setTimeout(Milliseconds(options.join_timeout));
  } catch (const std::exception& error) {
    return PeerLost(absl::StrCat("rank ", options.rank, " of ", options.world_size,
                                 " waited in vain for the others to come: ", FirstLine(error)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProcessGroup>> JoinBackends(const ProcessGroupOptions& options) {
  ASSIGN_OR_RETURN(const auto device, OpenDevice(options.advertise_host));
  ASSIGN_OR_RETURN(const auto store, OpenStore(options));
  RETURN_IF_ERROR(WaitForAll(options, *store));
  std::unique_ptr<GlooGroup> group;
  try {
    auto gloo_options = c10d::ProcessGroupGloo::Options::create(Milliseconds(options.join_timeout));
    gloo_options->devices.push_back(device);
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(
        c10::make_intrusive<c10d::PrefixStore>("gloo", store), options.rank, options.world_size,
        gloo_options);
    group = std::make_unique<GlooGroup>(options, store, std::move(gloo));
  } catch (const std::exception& error) {
    return PeerLost(absl::StrCat("rank ", options.rank, " of ", options.world_size,
                                 " could not connect to its peers: ", FirstLine(error)));
  }
  if (options.cuda_device < 0) return std::unique_ptr<ProcessGroup>(std::move(group));
#ifdef MINDFORGE_CUDA
  return AddNccl(std::move(group), options, store);
#else
  return absl::UnimplementedError(
      "this build has no CUDA; build with the cuda preset, or give the job device: cpu");
#endif
}

GlooGroup::GlooGroup(const ProcessGroupOptions& options, c10::intrusive_ptr<c10d::Store> store,
                     c10::intrusive_ptr<c10d::Backend> gloo)
    : ProcessGroup(options.rank, options.world_size),
      store_(std::move(store)),
      gloo_(std::move(gloo)) {}

GlooGroup::~GlooGroup() = default;

absl::Status GlooGroup::ExchangeHost(absl::Span<const Transfer> transfers, absl::Duration timeout) {
  const RealClock clock;
  const absl::Duration deadline = clock.MonotonicNow() + timeout;
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  std::vector<int> peers;
  int waiting_for = -1;
  try {
    for (const Transfer& transfer : transfers) {
      if (transfer.bytes == 0) continue;
      waiting_for = transfer.peer;
      std::vector<at::Tensor> tensor{at::from_blob(transfer.data, {transfer.bytes}, at::kByte)};
      const int tag = static_cast<int>(transfer.tag);
      works.push_back(transfer.kind == Transfer::Kind::kSend
                          ? gloo_->send(tensor, transfer.peer, tag)
                          : gloo_->recv(tensor, transfer.peer, tag));
      peers.push_back(transfer.peer);
    }
    for (size_t i = 0; i < works.size(); ++i) {
      waiting_for = peers[i];
      works[i]->wait(Milliseconds(deadline - clock.MonotonicNow()));
    }
  } catch (const std::exception& error) {
    return PeerLost(absl::StrCat("rank ", rank(), " lost rank ", waiting_for, ": ",
                                 FirstLine(error), " (timeout ", absl::FormatDuration(timeout),
                                 ")"));
  }
  return absl::OkStatus();
}

}  // namespace mindforge
