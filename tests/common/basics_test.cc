// check.h, status_macros.h, ids.h, strings.h, duration.h, net.h, random_id.h, version.h, clock.h,
// logging.h.
#include <limits>
#include <set>
#include <unordered_map>

#include "absl/container/flat_hash_set.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/crc32c.h"
#include "common/deadline.h"
#include "common/duration.h"
#include "common/error_details.h"
#include "common/ids.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/net.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/fake_clock.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TEST(CheckDeathTest, SaysWhatWasComparedAndAborts) {
  EXPECT_DEATH(MF_CHECK_EQ(1 + 1, 3) << "sums", "1 \\+ 1 == 3 \\(2 vs. 3\\) sums");
  EXPECT_DEATH(MF_CHECK(false) << "never", "false never");
  EXPECT_DEATH(MF_CHECK_OK(absl::NotFoundError("no job x")), "NOT_FOUND: no job x");
}

// RFC 3720, B.4, and the check value of the catalogues.
TEST(Crc32c, MatchesPublishedVectors) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending += c;
  EXPECT_EQ(Crc32c(ascending), 0x46dd794eu);
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(MaskedCrc32c(""), 0xa282ead8u);
}

TEST(Check, DoesNothingWhenItHolds) {
  MF_CHECK_LT(1, 2) << "order";
  MF_CHECK_OK(absl::OkStatus());
  if (true) MF_CHECK(true);
}

absl::Status FailWithPayload() {
  return Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no such job");
}

absl::StatusOr<int> AddContext() {
  RETURN_IF_ERROR(absl::OkStatus()) << "not used";
  if (true) RETURN_IF_ERROR(FailWithPayload()) << "job " << 7;
  return 1;
}

absl::Status AssignTwice() {
  ASSIGN_OR_RETURN(const int two, absl::StatusOr<int>(2));
  ASSIGN_OR_RETURN(const int three, absl::StatusOr<int>(3));
  if (two + three != 5) return absl::InternalError("sum");
  ASSIGN_OR_RETURN(int never, AddContext());
  return absl::InternalError(std::to_string(never));
}

TEST(StatusMacros, KeepCodeAndPayloadAndPutContextInFront) {
  const absl::Status status = AssignTwice();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), "job 7: no such job");
  EXPECT_EQ(GetReason(status), "JOB_NOT_FOUND");
}

TEST(ErrorDetails, ListEveryViolation) {
  const absl::Status status = InvalidArgument({{"a.b", "too big"}, {"c", "missing"}});
  EXPECT_EQ(std::string(status.message()), "a.b: too big\nc: missing");
  EXPECT_EQ(GetViolations(status),
            (std::vector<FieldViolation>{{"a.b", "too big"}, {"c", "missing"}}));
  EXPECT_EQ(GetReason(status), "INVALID_FIELD");
  EXPECT_EQ(GetReason(absl::InternalError("plain")), "");
}

TEST(Ids, OrderHashAndPrint) {
  EXPECT_LT(Generation(1), Generation(2));
  EXPECT_EQ(JobId("a"), JobId("a"));
  EXPECT_TRUE(JobId().empty());
  EXPECT_FALSE(Step(1).empty());
  std::unordered_map<JobId, int> by_job{{JobId("a"), 1}};
  EXPECT_EQ(by_job.at(JobId("a")), 1);
  absl::flat_hash_set<WorkerId> workers{WorkerId("w")};
  EXPECT_TRUE(workers.contains(WorkerId("w")));
  std::ostringstream out;
  out << JobId("j") << Step(3);
  EXPECT_EQ(out.str(), "j3");
  static_assert(!std::is_convertible_v<JobId, WorkerId>);
}

TEST(Deadline, IsNeverTooEarlyAndMayBeNever) {
  EXPECT_EQ(Deadline(absl::InfiniteDuration()).Left(), absl::InfiniteDuration());
  EXPECT_EQ(Deadline(absl::InfiniteDuration()).PollMilliseconds(), -1);
  EXPECT_EQ(Deadline(absl::ZeroDuration()).Left(), absl::ZeroDuration());
  EXPECT_EQ(Deadline(absl::ZeroDuration()).PollMilliseconds(), 0);
  EXPECT_EQ(Deadline(absl::Hours(10'000)).PollMilliseconds(), std::numeric_limits<int>::max());
  const Deadline soon(absl::Hours(1));
  EXPECT_GT(soon.Left(), absl::Minutes(59));
  EXPECT_LE(soon.PollMilliseconds(), 3'600'000);
}

TEST(Strings, NearestNameFindsSlipsButNotStrangers) {
  const std::vector<std::string> names{"learning_rate", "epochs", "seed"};
  EXPECT_EQ(NearestName("learnig_rate", names), "learning_rate");
  EXPECT_EQ(NearestName("Seed", names), "seed");
  EXPECT_EQ(NearestName("wheels", names), "");
  EXPECT_EQ(DidYouMean("epoch", names), "; did you mean 'epochs'?");
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

TEST(Strings, TruncateKeepsCharactersWhole) {
  EXPECT_EQ(Truncate("hello", 5), "hello");
  EXPECT_EQ(Truncate("hello!", 5), "he...");
  EXPECT_EQ(Truncate("春江花月夜", 8), "春...");
}

TEST(Duration, ReadsUnitsAndRefusesBareNumbers) {
  EXPECT_EQ(*ParseDuration("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseDuration("250ms"), absl::Milliseconds(250));
  EXPECT_EQ(*ParseDuration("0s"), absl::ZeroDuration());
  for (const char* bad : {"", "30", "0", "-5s", "inf", "5 apples"}) {
    EXPECT_EQ(ParseDuration(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(Duration, PrintsForPeople) {
  EXPECT_EQ(PrettyDuration(absl::Minutes(90)), "1h30m");
  EXPECT_EQ(PrettyDuration(absl::Hours(2)), "2h");
  EXPECT_EQ(PrettyDuration(absl::Hours(2) + absl::Seconds(59)), "2h");
  EXPECT_EQ(PrettyDuration(absl::Seconds(125.7)), "2m5s");
  EXPECT_EQ(PrettyDuration(absl::Minutes(10)), "10m");
  EXPECT_EQ(PrettyDuration(absl::Seconds(1.5)), "1.5s");
  EXPECT_EQ(PrettyDuration(absl::Milliseconds(12)), "12ms");
  EXPECT_EQ(PrettyDuration(absl::ZeroDuration()), "0s");
}

TEST(Net, ParsesAddresses) {
  EXPECT_EQ(*ParseHostPort("127.0.0.1:70"), (HostPort{"127.0.0.1", 70}));
  EXPECT_EQ(*ParseHostPort("[::1]:0"), (HostPort{"::1", 0}));
  EXPECT_EQ((HostPort{"::1", 5}).ToString(), "[::1]:5");
  for (const char* bad :
       {"", "host", ":70", "host:", "host:x", "host:65536", "host:-1", "::1:70"}) {
    EXPECT_EQ(ParseHostPort(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(Net, SaysWhatIsWrongWithAnAddress) {
  const std::pair<const char*, const char*> cases[] = {
      {"http://host:7070", "leave out 'http://'"},
      {"dns:///host:7070", "leave out 'dns://'"},
      {"host", "the port is missing"},
      {"host:", "the port is missing"},
      {"[::1]", "the port is missing"},
      {"::1", "an IPv6 host goes in brackets"},
      {"fe80::1:7070", "an IPv6 host goes in brackets"},
      {"[::1", "is not closed"},
      {"[::1]7070", "the port is missing"},
      {"host:7070/", "nothing follows the port"},
      {"host:http", "the port is no number"},
  };
  for (const auto& [address, word] : cases) {
    EXPECT_THAT(std::string(ParseHostPort(address).status().message()), testing::HasSubstr(word))
        << address;
  }
  EXPECT_TRUE(CheckHost("10.0.0.5").ok());
  EXPECT_TRUE(CheckHost("fe80::1").ok());
  EXPECT_TRUE(CheckHost("").ok());
  for (const char* bad : {"http://host", "host:70", "[::1]", "host/x", "ho st"}) {
    EXPECT_FALSE(CheckHost(bad).ok()) << bad;
  }
}

TEST(Net, KnowsLoopback) {
  EXPECT_TRUE(IsLoopback("127.0.0.1"));
  EXPECT_TRUE(IsLoopback("127.9.8.7"));
  EXPECT_TRUE(IsLoopback("localhost"));
  EXPECT_TRUE(IsLoopback("::1"));
  EXPECT_FALSE(IsLoopback("0.0.0.0"));
  EXPECT_FALSE(IsLoopback("128.0.0.1"));
  EXPECT_FALSE(IsLoopback("127.example.com"));
}

TEST(Net, ListensOnAPortOfItsChoiceAndRefusesATakenOne) {
  const auto first = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_GT(first->port, 0);
  const auto second = ListenTcp("127.0.0.1", first->port);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("taken"));
}

TEST(RandomId, IsWellFormedAndNeverTheSame) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(RandomId(10));
  EXPECT_EQ(seen.size(), 1000u);
  for (const std::string& id : seen) {
    EXPECT_EQ(id.find_first_not_of("abcdefghijklmnopqrstuvwxyz234567"), std::string::npos) << id;
    EXPECT_TRUE(isalpha(id[0])) << id;
  }
  EXPECT_THAT(
      RandomUuid(),
      testing::MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
}

TEST(Version, NamesProgramAndNumber) {
  EXPECT_THAT(VersionLine("mindforge-x"), testing::StartsWith("mindforge-x 0."));
}

TEST(Clock, MonotonicTimeMovesOnAndFakeTimeOnlyWhenTold) {
  const RealClock real;
  const absl::Duration before = real.MonotonicNow();
  EXPECT_GE(before, absl::ZeroDuration());
  EXPECT_GE(real.MonotonicNow(), before);
  FakeClock fake;
  const absl::Time start = fake.Now();
  fake.Advance(absl::Seconds(5));
  EXPECT_EQ(fake.Now() - start, absl::Seconds(5));
  fake.SetWall(start);
  EXPECT_EQ(fake.MonotonicNow(), absl::Seconds(5));
}

TEST(Logging, WritesOneJsonObjectALine) {
  const std::string line =
      FormatJsonLogLine("2026-01-01T00:00:00Z", LogSeverity::kWARNING, "prog", "a\n\"b\" \xff");
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto parsed = nlohmann::json::parse(line);
  EXPECT_EQ(parsed["level"], "warning");
  EXPECT_EQ(parsed["program"], "prog");
  EXPECT_THAT(parsed["msg"].get<std::string>(), testing::StartsWith("a\n\"b\""));
}

TEST(Logging, GoesToStderr) {
  testing::internal::CaptureStderr();
  MF_LOG(INFO) << "job " << JobId("j1") << " started";
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("job j1 started"));
}

TEST(CondVar, WaitEndsAtTheDeadlineOrTheSignal) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  {
    MutexLock lock(mutex);
    EXPECT_FALSE(changed.WaitFor(mutex, absl::Milliseconds(1), [&] { return ready; }));
    EXPECT_FALSE(changed.WaitUntil(mutex, absl::Now() - absl::Hours(1), [&] { return ready; }));
  }
  std::thread other([&] {
    MutexLock lock(mutex);
    ready = true;
    changed.SignalAll();
  });
  {
    MutexLock lock(mutex);
    EXPECT_TRUE(changed.WaitFor(mutex, absl::InfiniteDuration(), [&] { return ready; }));
  }
  other.join();
}

}  // namespace
}  // namespace mindforge
