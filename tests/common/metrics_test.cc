#include "common/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "common/durable_file.h"
#include "common/subprocess.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// The whole answer to a request.
std::string Ask(int port, const std::string& request) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(write(fd.get(), request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string reply;
  char chunk[4096];
  ssize_t got;
  while ((got = read(fd.get(), chunk, sizeof(chunk))) > 0) reply.append(chunk, got);
  return reply;
}

// The body of GET /metrics.
std::string Scrape(int port) {
  const std::string reply = Ask(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  const size_t body = reply.find("\r\n\r\n");
  return body == std::string::npos ? reply : reply.substr(body + 4);
}

void AddExamples(MetricsRegistry& registry) {
  registry.AddGauge("train_loss", "Loss of the newest step.").Get({{"job", "j1"}}).Set(2.5);
  registry.AddGauge("train_loss", "Loss of the newest step.").Get({{"job", "j2"}}).Set(3);
  registry.AddCounter("train_tokens_total", "Tokens trained on.").Get({{"job", "j1"}}).Increment(7);
  registry.AddHistogram("store_commit_seconds", "Time of a commit.").Get().Observe(0.0002);
}

TEST(Metrics, BucketsDoubleFromATenthOfAMillisecond) {
  EXPECT_THAT(ExponentialBuckets(1, 10, 3), ElementsAre(1, 10, 100));
  EXPECT_DOUBLE_EQ(LatencyBuckets().front(), 1e-4);
  EXPECT_GT(LatencyBuckets().back(), 50);
}

TEST(Metrics, ShowsSeriesWithPrefixAndBuildInfo) {
  MetricsRegistry registry("mindforge-test");
  AddExamples(registry);
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("mindforge_train_loss{job=\"j1\"} 2.5"));
  EXPECT_THAT(text, HasSubstr("mindforge_build_info{"));
  EXPECT_THAT(text, HasSubstr("program=\"mindforge-test\""));
  EXPECT_THAT(text, HasSubstr("mindforge_store_commit_seconds_bucket{le=\"0.0002\"} 1"));
}

TEST(Metrics, RemovesTheSeriesOfAnEndedJobAlone) {
  MetricsRegistry registry("mindforge-test");
  AddExamples(registry);
  registry.RemoveWhere("job", "j1");
  EXPECT_THAT(registry.Text(), Not(HasSubstr("j1")));
  EXPECT_THAT(registry.Text(), HasSubstr("job=\"j2\""));
}

TEST(Metrics, CollectsBeforeEachScrape) {
  MetricsRegistry registry("mindforge-test");
  GaugeFamily& jobs = registry.AddGauge("jobs", "Jobs there are.");
  int calls = 0;
  registry.OnScrape([&] { jobs.Get().Set(++calls); });
  EXPECT_THAT(registry.Text(), HasSubstr("mindforge_jobs 1"));
  EXPECT_THAT(registry.Text(), HasSubstr("mindforge_jobs 2"));
}

TEST(MetricsServer, ServesAPageThatPromtoolAccepts) {
  MetricsRegistry registry("mindforge-test");
  AddExamples(registry);
  const auto server = MetricsServer::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_GT((*server)->port(), 0);
  const std::string page = Scrape((*server)->port());
  EXPECT_THAT(page, HasSubstr("mindforge_train_tokens_total{job=\"j1\"} 7"));
  const TempDir dir;
  ASSERT_TRUE(WriteFileDurably(dir.File("page"), page).ok());
  auto promtool =
      Subprocess::Spawn({.argv = {"sh", "-c", "promtool check metrics < " + dir.File("page")}});
  ASSERT_TRUE(promtool.ok());
  char said[4096] = {};
  [[maybe_unused]] const ssize_t got = read((*promtool)->output_fd(), said, sizeof(said) - 1);
  EXPECT_TRUE((*promtool)->Wait().ok()) << said << page;
  EXPECT_STREQ(said, "");
}

TEST(MetricsServer, RefusesWhatItDoesNotServe) {
  MetricsRegistry registry("mindforge-test");
  const auto server = MetricsServer::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(server.ok()) << server.status();
  const int port = (*server)->port();
  EXPECT_THAT(Ask(port, "GET / HTTP/1.1\r\n\r\n"), HasSubstr("404 Not Found"));
  EXPECT_THAT(Ask(port, "POST /metrics HTTP/1.1\r\n\r\n"), HasSubstr("400 Bad Request"));
  EXPECT_THAT(Ask(port, std::string(20'000, 'x')), HasSubstr("400 Bad Request"));
  EXPECT_THAT(Ask(port, "HEAD /metrics HTTP/1.1\r\n\r\n"), Not(HasSubstr("build_info")));
}

TEST(MetricsServer, NamesTheFlagOfATakenPort) {
  MetricsRegistry registry("mindforge-test");
  const auto first = MetricsServer::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(first.ok());
  const auto second =
      MetricsServer::Start("127.0.0.1:" + std::to_string((*first)->port()), registry);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--metrics"));
  EXPECT_EQ(MetricsServer::Start("nowhere", registry).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mindforge
