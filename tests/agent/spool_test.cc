// What waits for the coordinator: its order, its limits and what a call carries of it.
#include "worker/agent/spool.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

v1::ProgressRecord Step(int64_t step) {
  v1::ProgressRecord record;
  record.set_step(step);
  return record;
}

v1::LogLine Line(const std::string& text) {
  v1::LogLine line;
  line.set_text(text);
  return line;
}

TEST(Spool, SendsOldestFirstUntilAcknowledged) {
  Spool spool(nullptr, {.records_a_call = 2});
  EXPECT_TRUE(spool.empty());
  for (int step = 1; step <= 3; ++step) spool.AddProgress("j", Step(step));
  v1::SynchronizeRequest request;
  EXPECT_TRUE(spool.Fill(&request)) << "one more waits";
  ASSERT_EQ(request.progress_size(), 2);
  EXPECT_EQ(request.progress(0).number(), 1);
  v1::SynchronizeResponse response;
  response.set_progress_acknowledged(2);
  spool.Acknowledge(response);
  request.Clear();
  EXPECT_FALSE(spool.Fill(&request));
  ASSERT_EQ(request.progress_size(), 1);
  EXPECT_EQ(request.progress(0).record().step(), 3);
  EXPECT_EQ(request.progress(0).number(), 3);
}

TEST(Spool, DropsTheOldestLogLinesAndSaysHowMany) {
  Spool spool(nullptr, {.logs = 2});
  for (const char* text : {"a", "b", "c", "d"}) spool.AddLog("j", Line(text));
  v1::SynchronizeRequest request;
  spool.Fill(&request);
  ASSERT_EQ(request.logs_size(), 3);
  EXPECT_EQ(request.logs(0).number(), 2) << "the last dropped line's";
  EXPECT_THAT(request.logs(0).line().text(), HasSubstr("2 log lines were dropped"));
  EXPECT_EQ(request.logs(1).line().text(), "c");
  EXPECT_EQ(spool.dropped_logs(), 2);
  v1::SynchronizeResponse response;
  response.set_logs_acknowledged(4);
  spool.Acknowledge(response);
  EXPECT_TRUE(spool.empty());
}

TEST(Spool, BoundsLogLinesByBytesToo) {
  Spool spool(nullptr, {.log_bytes = 10, .log_bytes_a_call = 5});
  for (const char* text : {"12345", "67890", "abcde"}) spool.AddLog("j", Line(text));
  EXPECT_EQ(spool.logs_waiting(), 2u);
  v1::SynchronizeRequest request;
  EXPECT_TRUE(spool.Fill(&request));
  EXPECT_EQ(request.logs_size(), 2) << "the gap's line, and one of the two";
}

TEST(Spool, CountsDroppedProgress) {
  Spool spool(nullptr, {.progress = 2});
  for (int step = 1; step <= 5; ++step) spool.AddProgress("j", Step(step));
  EXPECT_EQ(spool.progress_waiting(), 2u);
  EXPECT_EQ(spool.dropped_progress(), 3);
}

TEST(Spool, KeepsARepeatedCheckpointOnceAndReturnsItWhenAcknowledged) {
  Spool spool;
  v1::CheckpointWritten written;
  written.set_path("/c/step-1.g1");
  written.set_step(1);
  spool.AddCheckpoint("j", written);
  spool.AddCheckpoint("j", written);
  v1::SynchronizeRequest request;
  spool.Fill(&request);
  EXPECT_EQ(request.checkpoints_size(), 1);
  v1::SynchronizeResponse response;
  response.set_checkpoints_acknowledged(1);
  const auto acknowledged = spool.Acknowledge(response);
  ASSERT_EQ(acknowledged.size(), 1u);
  EXPECT_EQ(acknowledged[0].checkpoint().step(), 1);
  EXPECT_TRUE(spool.empty());
}

// The coordinator refuses a call with more, and what is refused is never acknowledged.
TEST(Spool, TheGapsLineCountsAgainstTheLinesOfACall) {
  Spool spool(nullptr, {.logs = 5, .records_a_call = 3});
  for (int i = 0; i < 9; ++i) spool.AddLog("j", Line("x"));
  v1::SynchronizeRequest request;
  EXPECT_TRUE(spool.Fill(&request));
  EXPECT_EQ(request.logs_size(), 3);
}

TEST(Spool, TellsThatAWaitingCheckpointIsTheLast) {
  Spool spool;
  v1::CheckpointWritten written;
  written.set_path("/c/step-9.g1");
  spool.AddCheckpoint("j", written);  // as an agent finds it
  written.set_final(true);
  spool.AddCheckpoint("j", written);  // as its trainer tells
  spool.AddCheckpoint("j", written);
  v1::SynchronizeRequest request;
  spool.Fill(&request);
  ASSERT_EQ(request.checkpoints_size(), 2);
  EXPECT_TRUE(request.checkpoints(1).checkpoint().final());
}

}  // namespace
}  // namespace mindforge
