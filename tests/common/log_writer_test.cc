#include "common/log_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

class LogWriterTest : public ::testing::Test {
 protected:
  LogWriterTest() {
    int ends[2];
    MF_CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
    read_.Reset(ends[0]);
    write_.Reset(ends[1]);
  }

  static std::string Told(int64_t dropped) { return absl::StrCat(dropped, " dropped\n"); }

  // What lies in the pipe, without waiting for more.
  std::string Take() {
    fcntl(read_.get(), F_SETFL, O_NONBLOCK);
    std::string all;
    char buffer[4096];
    ssize_t got;
    while ((got = ::read(read_.get(), buffer, sizeof(buffer))) > 0) all.append(buffer, got);
    return all;
  }
  // Fills the pipe until a write would wait.
  void Fill() {
    fcntl(write_.get(), F_SETFL, O_NONBLOCK);
    const std::string zeros(4096, '0');
    while (::write(write_.get(), zeros.data(), zeros.size()) > 0) {
    }
    fcntl(write_.get(), F_SETFL, 0);
  }

  UniqueFd read_, write_;
};

TEST_F(LogWriterTest, WritesLinesInOrder) {
  LogWriter writer(write_.get(), 1 << 20, Told);
  std::string expected;
  for (int i = 0; i < 1000; ++i) {
    writer.Write(absl::StrCat(i, "\n"));
    absl::StrAppend(&expected, i, "\n");
  }
  ASSERT_TRUE(writer.Flush(absl::Seconds(60)));
  EXPECT_EQ(Take(), expected);
}

TEST_F(LogWriterTest, AReaderThatIsStuckHoldsNobodyUpAndLosesTheLatestLines) {
  Fill();
  LogWriter writer(write_.get(), 100, Told);
  const std::string line(49, 'x');
  for (int i = 0; i < 5; ++i) writer.Write(line + "\n");  // returns: three find no room
  EXPECT_FALSE(writer.Flush(absl::ZeroDuration()));
  std::string all = Take();  // of the lines as many as are written meanwhile
  ASSERT_TRUE(writer.Flush(absl::Seconds(60)));
  all += Take();
  EXPECT_THAT(all, HasSubstr(line + "\n" + line + "\n3 dropped\n"));
}

TEST_F(LogWriterTest, EndsWhileItsReaderIsStuck) {
  Fill();
  LogWriter writer(write_.get(), 100, Told);
  writer.Write("never read\n");
}

TEST_F(LogWriterTest, AReaderThatIsGoneIsNoReasonToStop) {
  signal(SIGPIPE, SIG_IGN);
  read_.Reset();
  LogWriter writer(write_.get(), 100, Told);
  for (int i = 0; i < 10; ++i) {
    writer.Write("for nobody\n");
    ASSERT_TRUE(writer.Flush(absl::Seconds(60)));
  }
}

}  // namespace
}  // namespace mindforge
