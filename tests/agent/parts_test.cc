// reconcile.h, devices.h, store_socket.h, log_lines.h, trainer_exit.h, identity.h, agent_options.h:
// the agent's parts, with literal values.
#include <csignal>

#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/temp_dir.h"
#include "worker/agent/agent_options.h"
#include "worker/agent/devices.h"
#include "worker/agent/identity.h"
#include "worker/agent/log_lines.h"
#include "worker/agent/reconcile.h"
#include "worker/agent/store_socket.h"
#include "worker/agent/trainer_exit.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

v1::DesiredDevice Desired(const std::string& job, int64_t generation = 1, int rank = 0) {
  v1::DesiredDevice desired;
  desired.set_device_id("cpu:0");
  desired.set_job_id(job);
  desired.mutable_start()->set_generation(generation);
  desired.mutable_start()->set_rank(rank);
  desired.mutable_start()->set_world_size(2);
  return desired;
}

CurrentDevice Running(const std::string& job, int64_t generation = 1, int rank = 0) {
  return {.device_id = "cpu:0", .job_id = job, .generation = generation, .rank = rank};
}

std::vector<ActionKind> Kinds(const CurrentDevice& current, const v1::DesiredDevice& desired,
                              bool draining = false) {
  google::protobuf::RepeatedPtrField<v1::DesiredDevice> list;
  *list.Add() = desired;
  std::vector<ActionKind> kinds;
  for (const Action& action : Reconcile({current}, list, draining)) kinds.push_back(action.kind);
  return kinds;
}

TEST(Reconcile, StartsWhatIsWantedOnAFreeDevice) {
  EXPECT_THAT(Kinds({.device_id = "cpu:0"}, Desired("j")), ElementsAre(ActionKind::kStart));
  EXPECT_THAT(Kinds({.device_id = "cpu:0"}, Desired("")), IsEmpty());
  EXPECT_THAT(Kinds({.device_id = "cpu:1"}, Desired("j")), IsEmpty()) << "another device's";
}

TEST(Reconcile, LeavesTheRightTrainerAlone) {
  EXPECT_THAT(Kinds(Running("j"), Desired("j")), IsEmpty());
}

TEST(Reconcile, KillsAStaleGenerationAndStartsItsSuccessorOnlyWhenItIsGone) {
  CurrentDevice current = Running("j", 1);
  EXPECT_THAT(Kinds(current, Desired("j", 2)), ElementsAre(ActionKind::kKill));
  current.killed = true;
  EXPECT_THAT(Kinds(current, Desired("j", 2)), IsEmpty()) << "it is dying already";
  current.exited = true;
  EXPECT_THAT(Kinds(current, Desired("j", 2)),
              ElementsAre(ActionKind::kForget, ActionKind::kStart));
}

TEST(Reconcile, AnotherRankIsAnotherTrainer) {
  EXPECT_THAT(Kinds(Running("j", 1, 0), Desired("j", 1, 1)), ElementsAre(ActionKind::kKill));
}

TEST(Reconcile, TellsOfAnEndedTrainerUntilSomethingElseIsWanted) {
  CurrentDevice current = Running("j");
  current.exited = true;
  EXPECT_THAT(Kinds(current, Desired("j")), IsEmpty());
  EXPECT_THAT(Kinds(current, Desired("")), ElementsAre(ActionKind::kForget));
}

TEST(Reconcile, HandsOverTheMeetingPlaceOnce) {
  v1::DesiredDevice desired = Desired("j", 1, 1);
  desired.set_rendezvous("h:1");
  CurrentDevice current = Running("j", 1, 1);
  EXPECT_THAT(Kinds(current, desired), ElementsAre(ActionKind::kJoin));
  current.joined = true;
  EXPECT_THAT(Kinds(current, desired), IsEmpty());
}

TEST(Reconcile, HandsOverEachNewerStopOnce) {
  v1::DesiredDevice desired = Desired("j");
  desired.mutable_stop()->set_sequence(3);
  CurrentDevice current = Running("j");
  current.stop_sequence = 2;
  EXPECT_THAT(Kinds(current, desired), ElementsAre(ActionKind::kStop));
  current.stop_sequence = 3;
  EXPECT_THAT(Kinds(current, desired), IsEmpty());
  current.stop_sequence = 2;
  current.exited = true;
  EXPECT_THAT(Kinds(current, desired), IsEmpty()) << "nobody is left to be told";
}

TEST(Reconcile, StartsNothingWhileDraining) {
  EXPECT_THAT(Kinds({.device_id = "cpu:0"}, Desired("j"), true), IsEmpty());
  CurrentDevice current = Running("i");
  current.exited = true;
  EXPECT_THAT(Kinds(current, Desired("j"), true), ElementsAre(ActionKind::kForget));
}

TEST(Reconcile, SaysWhyInWords) {
  google::protobuf::RepeatedPtrField<v1::DesiredDevice> list;
  *list.Add() = Desired("");
  EXPECT_EQ(Reconcile({Running("j", 4, 1)}, list, false).front().reason,
            "job j generation 4 rank 1 is not wanted on cpu:0 any more, nothing is");
}

TEST(Devices, ReadsWhatTheFlagSays) {
  EXPECT_EQ(*ParseDeviceSpec("auto"), (DeviceSpec{.automatic = true}));
  EXPECT_EQ(*ParseDeviceSpec("cpu:4"), (DeviceSpec{.cpu_slots = 4}));
  EXPECT_EQ(*ParseDeviceSpec("cuda:0, cuda:2"), (DeviceSpec{.cuda_indices = {0, 2}}));
  for (const char* bad : {"", "cpu", "cpu:0", "cpu:x", "gpu:1", "cuda:-1", "cuda:1,cuda:1",
                          "cpu:1,cpu:2", "auto,cpu:1", "cpu:1000"}) {
    EXPECT_EQ(ParseDeviceSpec(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(Devices, AutoIsEveryGpuElseOneSlot) {
  Hardware hardware{
      .cpu = {.maker = "X", .column = CpuColumn::kAvx2}, .cores = 8, .memory_bytes = 1 << 30};
  auto devices = MakeDevices({.automatic = true}, hardware, 0);
  ASSERT_TRUE(devices.ok());
  ASSERT_EQ(devices->size(), 1u);
  EXPECT_EQ((*devices)[0].id(), "cpu:0");
  EXPECT_EQ((*devices)[0].threads(), 8);
  hardware.gpus = {{"H100", 1}, {"H100", 1}};
  devices = MakeDevices({.automatic = true}, hardware, 0);
  ASSERT_EQ(devices->size(), 2u);
  EXPECT_EQ((*devices)[1].id(), "cuda:1");
  EXPECT_EQ((*devices)[0].signature(), (*devices)[1].signature());
}

TEST(Devices, GpusWithoutTheKernelsInstructionsAreNotOffered) {
  const Hardware hardware{.cores = 4,
                          .gpus = {{"T4", 1, 7, 5}, {"A100", 1, 8, 0}, {"T4", 1, 7, 5}}};
  const auto automatic = MakeDevices({.automatic = true}, hardware, 0);
  ASSERT_EQ(automatic->size(), 1u);
  EXPECT_EQ((*automatic)[0].id(), "cuda:1");
  const absl::Status named = MakeDevices({.cuda_indices = {1, 2}}, hardware, 0).status();
  EXPECT_EQ(named.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(named.message()), HasSubstr("cuda:2, but the T4 has compute capability"));
  const auto alone = MakeDevices({.automatic = true}, {.gpus = {{"T4", 1, 7, 5}}}, 0);
  ASSERT_EQ(alone->size(), 1u);
  EXPECT_EQ((*alone)[0].id(), "cpu:0");
}

TEST(Devices, SlotsShareTheCores) {
  const Hardware hardware{.cores = 8};
  EXPECT_EQ((*MakeDevices({.cpu_slots = 2}, hardware, 0))[0].threads(), 4);
  EXPECT_EQ((*MakeDevices({.cpu_slots = 2}, hardware, 1))[0].threads(), 1);
  EXPECT_EQ((*MakeDevices({.cpu_slots = 16}, hardware, 0))[0].threads(), 1);
}

// A job is pinned to the name, and an upgrade of the build must not strand it.
TEST(Devices, SayTheNumericsOfEachDtypeAndNotTheBuild) {
  const Hardware hardware{.cpu = {.maker = "AuthenticAMD", .column = CpuColumn::kAvx2},
                          .cores = 8,
                          .gpus = {{"NVIDIA H200", 1, 9, 0}}};
  const auto devices = *MakeDevices({.cpu_slots = 1, .cuda_indices = {0}}, hardware, 2);
  ASSERT_EQ(devices.size(), 2u);
  for (const v1::Device& device : devices) {
    std::vector<std::string> dtypes;
    for (const v1::DeviceNumerics& numerics : device.numerics()) {
      dtypes.push_back(numerics.dtype());
      EXPECT_THAT(numerics.name(), Not(HasSubstr(kVersion)));
      // On a GPU no earlier build had these bits.
      EXPECT_EQ(numerics.former_names_size(), device.kind() == v1::DEVICE_KIND_CPU ? 1 : 0);
    }
    EXPECT_THAT(dtypes, ElementsAre("float32", "bfloat16", "float16"));
  }
  EXPECT_EQ(devices[1].numerics(0).name(), CpuTrainingNumerics(hardware.cpu, 2)[0].name);
  // What a coordinator of an older build, which does not know numerics, matches jobs by.
  EXPECT_EQ(devices[1].signature(), "cpu/AuthenticAMD avx2/threads=2/0.1.0-Release");
}

TEST(Devices, NamesTheGpuThatIsNotThere) {
  const auto devices = MakeDevices({.cuda_indices = {1}}, Hardware{.gpus = {{"H100", 1}}}, 0);
  EXPECT_EQ(devices.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(devices.status().message()), HasSubstr("cuda:1"));
}

TEST(Devices, ABuildWithoutCudaOffersNoGpu) {
  const Hardware hardware{.cores = 4, .gpus = {{"H100", 1}}, .cuda_build = false};
  const auto automatic = MakeDevices({.automatic = true}, hardware, 0);
  ASSERT_EQ(automatic->size(), 1u);
  EXPECT_EQ((*automatic)[0].id(), "cpu:0");
  const auto named = MakeDevices({.cuda_indices = {0}}, hardware, 0);
  EXPECT_EQ(named.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(named.status().message()), HasSubstr("cuda preset"));
}

TEST(Devices, ReadsCudaVisibleDevicesAsCudaDoes) {
  const std::vector<Hardware::Gpu> all = {{"A", 1}, {"B", 1}};
  const auto visible = [&](const char* value) {
    std::string models;
    for (const Hardware::Gpu& gpu : VisibleGpus(all, value)) models += gpu.model;
    return models;
  };
  EXPECT_EQ(visible(nullptr), "AB");
  EXPECT_EQ(visible("1, 0"), "BA");
  EXPECT_EQ(visible("GPU-1234,MIG-5"), "AA");
  EXPECT_EQ(visible("1,7,0"), "B");
  EXPECT_EQ(visible("0,-1,1"), "A");
  for (const char* none : {"", "-1", "NoDevFiles", "none"}) EXPECT_EQ(visible(none), "") << none;
}

TEST(Devices, FindsVisibleDevicesByUuid) {
  const std::vector<Hardware::Gpu> all = {{.model = "A", .uuids = {"GPU-12ab"}},
                                          {.model = "B", .uuids = {"GPU-34cd", "MIG-5", "MIG-6"}}};
  const auto visible = [&](const char* value) {
    std::string models;
    for (const Hardware::Gpu& gpu : VisibleGpus(all, value)) models += gpu.model;
    return models;
  };
  EXPECT_EQ(visible("GPU-34,GPU-12ab"), "BA");
  EXPECT_EQ(visible("MIG-6"), "B");
  EXPECT_EQ(visible("1,GPU-99,0"), "B");
}

TEST(Advertise, IsAnAddressOfThisMachine) {
  EXPECT_TRUE(CheckAdvertise({.coordinator = "c:1", .advertise = "127.0.0.1"}).ok());
  for (const char* bad : {"192.0.2.1", "0.0.0.0", "::", "no.such.host.invalid"}) {
    const absl::Status refused = CheckAdvertise({.coordinator = "c:1", .advertise = bad});
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("--advertise")) << bad;
  }
}

TEST(Devices, ThisMachineHasACpu) {
  const Hardware hardware = FindHardware();
  EXPECT_GE(hardware.cores, 1);
  EXPECT_GT(hardware.memory_bytes, 0);
  EXPECT_FALSE(hardware.cpu.maker.empty());
}

TEST(LogLines, OursKeepLevelAndTimeOthersAreTakenAsTheyAre) {
  const v1::LogLine ours = ParseLogLine(
      R"({"ts":"2026-01-01T00:00:01.5Z","level":"warning","msg":"slow","program":"p"})");
  EXPECT_EQ(ours.level(), v1::LOG_LEVEL_WARNING);
  EXPECT_EQ(ours.text(), "slow");
  EXPECT_EQ(ours.time().seconds(), 1767225601);
  EXPECT_EQ(ours.time().nanos(), 500'000'000);
  for (const char* other : {"plain words", "{\"a\": 1}", "{not json"}) {
    EXPECT_EQ(ParseLogLine(other).text(), other);
    EXPECT_EQ(ParseLogLine(other).level(), v1::LOG_LEVEL_INFO);
    EXPECT_GT(ParseLogLine(other).time().seconds(), 0);
  }
}

TEST(LogLines, AreAlwaysUtf8) {
  EXPECT_EQ(MakeLogLine(v1::LOG_LEVEL_INFO, "春\xff\xe6x").text(), "春��x");
  EXPECT_EQ(ParseLogLine("{\"msg\": \"a\xff\"}").text(), "{\"msg\": \"a�\"}");
}

TEST(LogLines, SplitterJoinsPiecesAndCutsEndlessLines) {
  std::vector<std::string> lines;
  LineSplitter splitter([&](std::string_view line) { lines.emplace_back(line); });
  splitter.Add("a");
  splitter.Add("b\r\n\nc\n");
  splitter.Add(std::string(3 * kMaxLogLineBytes, 'x'));
  splitter.Finish();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], "ab");
  EXPECT_EQ(lines[1], "c");
  EXPECT_EQ(lines[2].size(), kMaxLogLineBytes);
}

TEST(TrainerExit, IsCleanOnlyAfterItSaidSo) {
  EXPECT_TRUE(DescribeExit({.phase = v1::TRAINER_PHASE_FINISHED}).clean());
  EXPECT_TRUE(DescribeExit({.phase = v1::TRAINER_PHASE_STOPPED}).clean());
  const v1::TrainerExit early = DescribeExit({.phase = v1::TRAINER_PHASE_TRAINING});
  EXPECT_FALSE(early.clean());
  EXPECT_EQ(early.cause(), "exited with code 0 before it was done");
  EXPECT_FALSE(DescribeExit({.exit = {.code = 1}, .phase = v1::TRAINER_PHASE_FINISHED}).clean());
}

TEST(TrainerExit, SaysWhatIsKnown) {
  EXPECT_EQ(DescribeExit({.exit = {.signal = SIGKILL}}).cause(),
            "was killed by signal 9 (Killed), by the kernel for want of memory or by a person");
  EXPECT_EQ(DescribeExit({.exit = {.signal = SIGKILL}, .killed_by_agent = true}).cause(),
            "was killed by signal 9 (Killed), by its agent");
  EXPECT_EQ(DescribeExit({.exit = {.code = 7}, .last_line = "terminate"}).cause(),
            "exited with code 7; the last it said: terminate");
  v1::TrainerFailure failure;
  failure.set_kind(v1::FAILURE_KIND_USER);
  const v1::TrainerExit exit =
      DescribeExit({.exit = {.code = 1}, .failure = failure, .last_line = "x"});
  EXPECT_EQ(exit.failure().kind(), v1::FAILURE_KIND_USER);
  EXPECT_EQ(exit.cause(), "exited with code 1");
}

TEST(Identity, IsKeptOverRestartsAndHeldByOneAgent) {
  const TempDir dir;
  std::string id;
  {
    const auto first = Identity::Open(dir.File("data"));
    ASSERT_TRUE(first.ok()) << first.status();
    id = (*first)->worker_id();
    EXPECT_THAT(id, testing::StartsWith("w-"));
    const auto second = Identity::Open(dir.File("data"));
    EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
    EXPECT_THAT(std::string(second.status().message()), HasSubstr("--data-dir"));
    ASSERT_TRUE((*first)->SetJobs({{"j", "/c"}}).ok());
  }
  const auto again = Identity::Open(dir.File("data"));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ((*again)->worker_id(), id);
  EXPECT_THAT((*again)->jobs_before(), ElementsAre(testing::Pair("j", "/c")));
}

TEST(Identity, SurvivesABrokenListOfJobs) {
  const TempDir dir;
  ASSERT_TRUE(WriteFileDurably(dir.File("jobs.json"), "[1, 2").ok());
  const auto identity = Identity::Open(dir.path());
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_THAT((*identity)->jobs_before(), IsEmpty());
}

TEST(AgentOptions, FillsDefaultsAndListsEveryProblem) {
  const auto options = MakeAgentOptions({}, "/opt/bin/mindforge-worker");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->coordinator, "127.0.0.1:7070");
  EXPECT_EQ(options->trainer, "/opt/bin/mindforge-trainer");
  EXPECT_EQ(options->metrics, "127.0.0.1:9465");
  EXPECT_EQ(options->drain_timeout, absl::Seconds(150));
  v1::WorkerConfig slow;
  slow.set_drain_timeout("5m");
  EXPECT_EQ(MakeAgentOptions(slow, "x")->drain_timeout, absl::Minutes(5));
  v1::WorkerConfig bad;
  bad.set_drain_timeout("5");
  bad.set_coordinator("nowhere");
  bad.set_threads_per_device(-1);
  bad.set_devices("tpu:0");
  const auto refused = MakeAgentOptions(bad, "x");
  EXPECT_EQ(GetViolations(refused.status()).size(), 4u) << refused.status();
}

}  // namespace
}  // namespace mindforge
