// The real program: what it acknowledged survives kill -9, and it refuses what it cannot do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/durable_file.h"
#include "common/grpc_client.h"
#include "common/subprocess.h"
#include "mindforge/v1/job_service.grpc.pb.h"
#include "tests/coordinator/good_job.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

std::string Binary() {
  const char* const folder = ::getenv("MINDFORGE_BIN");
  MF_CHECK(folder != nullptr) << "set MINDFORGE_BIN to the folder of the programs";
  return std::string(folder) + "/mindforge-coordinator";
}

class Daemon {
 public:
  explicit Daemon(const std::string& data_dir) {
    SubprocessOptions options;
    options.argv = {Binary(),      "--listen",   "127.0.0.1:0", "--metrics",
                    "127.0.0.1:0", "--data-dir", data_dir};
    const absl::Time start = absl::Now();
    auto spawned = Subprocess::Spawn(options);
    MF_CHECK_OK(spawned.status());
    process_ = *std::move(spawned);
    ReadUntil("listening on ");
    ready_ = absl::Now() - start;
    const size_t at = output_.find("listening on ");
    if (at != std::string::npos) {
      const size_t begin = at + 13;
      address_ = output_.substr(begin, output_.find_first_of("\" \n", begin) - begin);
      auto channel = MakeChannel(address_);
      MF_CHECK_OK(channel.status());
      stub_ = v1::JobService::NewStub(*channel);
    }
  }

  Subprocess& process() { return *process_; }
  const std::string& output() const { return output_; }
  absl::Duration ready() const { return ready_; }

  void Disconnect() { stub_.reset(); }

  grpc::Status Submit(const std::string& name, v1::SubmitJobResponse* response) {
    v1::SubmitJobRequest request;
    *request.mutable_job() = GoodJob(name);
    request.set_request_id("request-" + name);
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(10));
    return stub_->SubmitJob(&context, request, response);
  }

 private:
  // Until the text is there or the output ends.
  void ReadUntil(const std::string& text) {
    char buffer[4096];
    while (output_.find(text) == std::string::npos || output_.back() != '\n') {
      const ssize_t count = read(process_->output_fd(), buffer, sizeof buffer);
      if (count <= 0) return;
      output_.append(buffer, count);
    }
  }

  std::unique_ptr<Subprocess> process_;
  std::string output_;
  std::string address_;
  absl::Duration ready_;
  std::unique_ptr<v1::JobService::Stub> stub_;
};

TEST(Durability, AnAcknowledgedSubmitSurvivesKillNine) {
  TempDir folder;
  for (int round = 0; round < 5; ++round) {
    Daemon daemon(folder.path());
    v1::SubmitJobResponse response;
    for (int i = 0; i <= round; ++i) {
      ASSERT_TRUE(daemon.Submit(absl::StrCat("job-", i), &response).ok());
      EXPECT_EQ(response.already_submitted(), i < round) << "round " << round << ", job " << i;
    }
    daemon.process().Kill(SIGKILL);
    daemon.process().Wait();
  }
}

TEST(Durability, DrainsOnSigtermWithStatusZero) {
  TempDir folder;
  Daemon daemon(folder.path());
  v1::SubmitJobResponse response;
  ASSERT_TRUE(daemon.Submit("job", &response).ok());
  daemon.Disconnect();  // an idle connection would not hear that the server goes
  daemon.process().Kill(SIGTERM);
  const auto exit = daemon.process().WaitFor(absl::Seconds(20));
  ASSERT_TRUE(exit.has_value());
  EXPECT_TRUE(exit->ok()) << exit->ToString();
}

TEST(Durability, ASecondCoordinatorOnTheSameFolderIsRefused) {
  TempDir folder;
  Daemon first(folder.path());
  Daemon second(folder.path());
  EXPECT_FALSE(second.process().Wait().ok());
  EXPECT_THAT(second.output(), HasSubstr("another coordinator uses"));
}

TEST(Durability, AnUnreadableStoreIsRefusedInOneLine) {
  TempDir folder;
  MF_CHECK_OK(WriteFileDurably(folder.File("coordinator.db"), std::string(8192, 'x')));
  Daemon daemon(folder.path());
  EXPECT_EQ(daemon.process().Wait().code, 1);
  EXPECT_THAT(daemon.output(), HasSubstr("cannot be used"));
  EXPECT_EQ(std::count(daemon.output().begin(), daemon.output().end(), '\n'), 1);
}

std::string OutputOf(const std::string& flag, const std::string& value = "") {
  SubprocessOptions options;
  options.argv = {Binary(), flag};
  if (!value.empty()) options.argv.push_back(value);
  options.capture_output = true;
  auto spawned = Subprocess::Spawn(options);
  MF_CHECK_OK(spawned.status());
  std::string output;
  char buffer[4096];
  ssize_t count = 0;
  while ((count = read((*spawned)->output_fd(), buffer, sizeof buffer)) > 0) {
    output.append(buffer, static_cast<size_t>(count));
  }
  return output;
}

TEST(Coordinator, OffersNoDoorThatItDoesNotHave) {
  EXPECT_THAT(OutputOf("--help"), Not(HasSubstr("--http")));
  EXPECT_THAT(OutputOf("--http", "127.0.0.1:0"), HasSubstr("the coordinator has no HTTP door yet"));
}

}  // namespace
}  // namespace mindforge
