// durable_file.h, frame.h, subprocess.h, shutdown.h.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <thread>

#include "common/durable_file.h"
#include "common/frame.h"
#include "common/shutdown.h"
#include "common/subprocess.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(DurableFile, ReplacesContentAndLeavesNothingElse) {
  const TempDir dir;
  const std::string path = dir.File("a");
  ASSERT_TRUE(WriteFileDurably(path, "one").ok());
  ASSERT_TRUE(WriteFileDurably(path, std::string(100'000, 'x')).ok());
  EXPECT_EQ(ReadFile(path, 1 << 20)->size(), 100'000u);
  EXPECT_THAT(*ListDir(dir.path()), ElementsAre("a"));
  EXPECT_EQ(ReadFile(path, 99'999).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(DurableFile, KeepsTheOldContentWhenTheNewCannotBeWritten) {
  const TempDir dir;
  const std::string path = dir.File("a");
  ASSERT_TRUE(WriteFileDurably(path, "old").ok());
  // A limit on file sizes is a full disk that needs no disk.
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{10, before.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const absl::Status status = WriteFileDurably(path, std::string(100, 'x'));
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(std::string(status.message()), HasSubstr("File too large"));
  EXPECT_EQ(*ReadFile(path, 100), "old");
  EXPECT_THAT(*ListDir(dir.path()), ElementsAre("a"));
}

TEST(DurableFile, SaysWhatIsMissing) {
  const TempDir dir;
  const auto missing = ReadFile(dir.File("none"), 10);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("none: No such file"));
  EXPECT_EQ(WriteFileDurably(dir.File("no/dir"), "x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SyncDir(dir.File("none")).code(), absl::StatusCode::kNotFound);
}

TEST(DurableFile, MakesAndRemovesTreesWithoutFollowingLinks) {
  const TempDir dir;
  ASSERT_TRUE(MakeDirs(dir.File("a/b/c")).ok());
  ASSERT_TRUE(MakeDirs(dir.File("a/b/c")).ok());
  ASSERT_TRUE(WriteFileDurably(dir.File("keep"), "x").ok());
  ASSERT_EQ(symlink(dir.File("keep").c_str(), dir.File("a/b/link").c_str()), 0);
  ASSERT_TRUE(RemoveTree(dir.File("a")).ok());
  ASSERT_TRUE(RemoveTree(dir.File("a")).ok());
  EXPECT_FALSE(PathExists(dir.File("a")));
  EXPECT_TRUE(PathExists(dir.File("keep")));
  EXPECT_FALSE(MakeDirs(dir.File("keep/x")).ok());
  EXPECT_EQ(JoinPath("/a", "b"), "/a/b");
  EXPECT_EQ(JoinPath("/a/", "b"), "/a/b");
  EXPECT_EQ(JoinPath("/a", "/b"), "/b");
}

class FrameTest : public testing::Test {
 protected:
  FrameTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ours_.Reset(ends[0]);
    theirs_.Reset(ends[1]);
  }
  UniqueFd ours_, theirs_;
};

TEST_F(FrameTest, CarriesFramesOfAllSizes) {
  FrameWriter writer(ours_.get());
  FrameReader reader(theirs_.get());
  const std::string big(kMaxFrameBytes, 'x');
  std::thread sender([&] {
    EXPECT_TRUE(writer.Write("").ok());
    EXPECT_TRUE(writer.Write("abc").ok());
    EXPECT_TRUE(writer.Write(big).ok());
  });
  EXPECT_EQ(*reader.Read(), "");
  EXPECT_EQ(*reader.Read(), "abc");
  EXPECT_EQ(*reader.Read(absl::Seconds(10)), big);
  sender.join();
  EXPECT_EQ(writer.Write(big + "x").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FrameTest, LosesNothingWhenTimeRunsOutInsideAFrame) {
  FrameReader reader(theirs_.get());
  EXPECT_EQ(reader.Read(absl::ZeroDuration()).status().code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_EQ(write(ours_.get(), "\3\0\0\0a", 5), 5);
  EXPECT_EQ(reader.Read(absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  ASSERT_EQ(write(ours_.get(), "bc", 2), 2);
  EXPECT_EQ(*reader.Read(absl::Seconds(5)), "abc");
}

TEST_F(FrameTest, TellsAnEndBetweenFramesFromOneInside) {
  FrameReader reader(theirs_.get());
  ASSERT_EQ(write(ours_.get(), "\1\0\0\0a\5\0\0\0b", 10), 10);
  ours_.Reset();
  EXPECT_EQ(*reader.Read(), "a");
  EXPECT_EQ(reader.Read().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(FrameTest, EndOfStreamIsOutOfRange) {
  FrameReader reader(theirs_.get());
  ours_.Reset();
  EXPECT_EQ(reader.Read().status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(FrameTest, RefusesAnAbsurdLength) {
  FrameReader reader(theirs_.get());
  ASSERT_EQ(write(ours_.get(), "\xff\xff\xff\x7f", 4), 4);
  EXPECT_EQ(reader.Read().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(FrameTest, AWriterThatTimedOutStaysBroken) {
  FrameWriter writer(ours_.get());
  const std::string big(kMaxFrameBytes, 'x');
  EXPECT_EQ(writer.Write(big, absl::Milliseconds(1)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(writer.Write("a").code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(FrameTest, CarriesMessages) {
  FrameWriter writer(ours_.get());
  FrameReader reader(theirs_.get());
  google::rpc::ErrorInfo sent, got;
  sent.set_reason("WHY");
  ASSERT_TRUE(writer.WriteMessage(sent).ok());
  ASSERT_TRUE(reader.ReadMessage(&got).ok());
  EXPECT_EQ(got.reason(), "WHY");
  ASSERT_TRUE(writer.Write("\xff\xff").ok());
  EXPECT_EQ(reader.ReadMessage(&got).code(), absl::StatusCode::kDataLoss);
}

std::string ReadAll(int fd) {
  std::string text;
  char chunk[4096];
  ssize_t got;
  while ((got = read(fd, chunk, sizeof(chunk))) > 0) text.append(chunk, got);
  return text;
}

TEST(Subprocess, CapturesOutputEnvironmentAndExitCode) {
  auto child = Subprocess::Spawn(
      {.argv = {"sh", "-c", "echo out $MF_X; echo err >&2; exit 3"}, .env = {"MF_X=7"}});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(ReadAll((*child)->output_fd()), "out 7\nerr\n");
  EXPECT_EQ((*child)->Wait(), (ExitStatus{.code = 3}));
  EXPECT_EQ((*child)->Wait().ToString(), "exited with code 3");
  EXPECT_FALSE((*child)->Kill(SIGTERM)) << "the number may be another's by now";
}

TEST(Subprocess, SaysInWordsWhichSignalKilled) {
  auto child = Subprocess::Spawn({.argv = {"sleep", "100"}});
  ASSERT_TRUE(child.ok());
  EXPECT_FALSE((*child)->TryWait());
  EXPECT_FALSE((*child)->WaitFor(absl::Milliseconds(5)));
  EXPECT_TRUE((*child)->Kill(SIGKILL));
  const auto exit = (*child)->WaitFor(absl::Seconds(5));
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->ToString(), "was killed by signal 9 (Killed)");
}

TEST(Subprocess, HandsOnNumberedDescriptorsAndClosesAllOthers) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  UniqueFd ours(ends[0]), theirs(ends[1]);
  UniqueFd leak(open("/dev/null", O_RDONLY));  // not close-on-exec
  auto child = Subprocess::Spawn({.argv = {"sh", "-c", "cat <&4 >&3; ls /proc/self/fd"},
                                  .fds = {{theirs.get(), 3}, {theirs.get(), 4}}});
  ASSERT_TRUE(child.ok()) << child.status();
  theirs.Reset();
  ASSERT_EQ(write(ours.get(), "ping", 4), 4);
  shutdown(ours.get(), SHUT_WR);
  EXPECT_EQ(ReadAll(ours.get()).substr(0, 4), "ping");
  // 0 to 2, the two above, and the one that ls itself lists through.
  EXPECT_EQ(ReadAll((*child)->output_fd()), "0\n1\n2\n3\n4\n5\n");
  EXPECT_TRUE((*child)->Wait().ok());
}

TEST(Subprocess, SwapsDescriptorNumbersThatCollide) {
  const TempDir dir;
  UniqueFd a(open(dir.File("a").c_str(), O_RDWR | O_CREAT, 0600));
  UniqueFd b(open(dir.File("b").c_str(), O_RDWR | O_CREAT, 0600));
  auto child = Subprocess::Spawn(
      {.argv = {"sh", "-c",
                "echo a >&" + std::to_string(b.get()) + "; echo b >&" + std::to_string(a.get())},
       .fds = {{a.get(), b.get()}, {b.get(), a.get()}}});
  ASSERT_TRUE(child.ok());
  EXPECT_TRUE((*child)->Wait().ok());
  EXPECT_EQ(*ReadFile(dir.File("a"), 10), "a\n");
  EXPECT_EQ(*ReadFile(dir.File("b"), 10), "b\n");
}

TEST(Subprocess, SaysThatAProgramIsNotThere) {
  const auto child = Subprocess::Spawn({.argv = {"/no/such/program"}});
  EXPECT_EQ(child.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(child.status().message()), HasSubstr("/no/such/program: No such file"));
}

TEST(Subprocess, DestructorEndsTheChild) {
  pid_t pid;
  {
    auto child = Subprocess::Spawn({.argv = {"sleep", "100"}});
    ASSERT_TRUE(child.ok());
    pid = (*child)->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(Subprocess, ChildDiesWithItsParent) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    auto child = Subprocess::Spawn(
        {.argv = {"sleep", "100"}, .fds = {{ends[1], 3}}, .capture_output = false});
    kill(getpid(), SIGKILL);
  }
  close(ends[1]);
  waitpid(parent, nullptr, 0);
  // The pipe ends when its last writer, the grandchild, is gone.
  EXPECT_EQ(ReadAll(ends[0]), "");
  close(ends[0]);
}

TEST(Shutdown, FirstSignalAsksAndRunsCallbacks) {
  Shutdown shutdown;
  EXPECT_FALSE(shutdown.WaitFor(absl::Milliseconds(1)));
  std::atomic<int> called = 0;
  shutdown.OnRequest([&] { ++called; });
  kill(getpid(), SIGTERM);
  EXPECT_TRUE(shutdown.WaitFor(absl::Seconds(10)));
  EXPECT_TRUE(shutdown.requested());
  shutdown.OnRequest([&] { called += 10; });
  while (called < 11) std::this_thread::yield();
  EXPECT_EQ(called, 11);
}

TEST(Shutdown, RequestDoesWithoutASignal) {
  Shutdown shutdown;
  shutdown.Request();
  shutdown.Wait();
  EXPECT_TRUE(shutdown.requested());
}

TEST(Shutdown, GivesInterruptsToWhoTakesThem) {
  Shutdown shutdown;
  std::atomic<int> interrupts = 0;
  shutdown.TakeInterrupts([&] { ++interrupts; });
  for (int i = 1; i <= 3; ++i) {
    kill(getpid(), SIGINT);
    while (interrupts < i) std::this_thread::yield();
  }
  EXPECT_FALSE(shutdown.requested());
  shutdown.TakeInterrupts(nullptr);
  kill(getpid(), SIGINT);
  EXPECT_TRUE(shutdown.WaitFor(absl::Seconds(10)));
  EXPECT_EQ(interrupts, 3);
}

TEST(ShutdownDeathTest, SecondSignalStopsNow) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Shutdown shutdown;
        kill(getpid(), SIGINT);
        shutdown.Wait();
        kill(getpid(), SIGINT);
        pause();
      },
      testing::ExitedWithCode(128 + SIGINT), "");
}

}  // namespace
}  // namespace mindforge
