// Cores by the quotas of nested cgroups, on fake trees.
#include "common/cpu_cores.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/fakes/temp_dir.h"

namespace mindforge {
namespace {

class CpuCores : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = folder_.path() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void SecondVersion(const std::string& cgroup) {
    Write("/proc/self/cgroup", "0::" + cgroup + "\n");
    Write("/proc/self/mountinfo",
          "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
          "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  void FirstVersion(const std::string& cgroup, const std::string& mounted = "/") {
    Write("/proc/self/cgroup", "5:memory:" + cgroup + "\n4:cpu,cpuacct:" + cgroup + "\n0::/\n");
    Write("/proc/self/mountinfo",
          "31 24 0:27 " + mounted +
              " /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
              "32 24 0:28 " +
              mounted +
              " /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n");
  }
  std::optional<double> Cores() const { return CgroupCores(folder_.path()); }

  TempDir folder_;
};

TEST_F(CpuCores, AreUnlimitedWithoutCgroups) { EXPECT_EQ(Cores(), std::nullopt); }

TEST_F(CpuCores, AreTheQuotaOfAnUnnestedCgroup) {
  SecondVersion("/");
  Write("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_EQ(Cores(), 1.5);
}

TEST_F(CpuCores, AreUnlimitedByMax) {
  SecondVersion("/");
  Write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(Cores(), std::nullopt);
}

TEST_F(CpuCores, AreTheSmallestQuotaOfNestedCgroups) {
  SecondVersion("/kubepods/pod1/box");
  Write("/sys/fs/cgroup/kubepods/cpu.max", "800000 100000\n");
  Write("/sys/fs/cgroup/kubepods/pod1/cpu.max", "200000 100000\n");
  Write("/sys/fs/cgroup/kubepods/pod1/box/cpu.max", "max 100000\n");
  EXPECT_EQ(Cores(), 2);
  Write("/sys/fs/cgroup/kubepods/pod1/box/cpu.max", "100000 100000\n");
  EXPECT_EQ(Cores(), 1);
}

TEST_F(CpuCores, AreTheSmallestQuotaOfTheFirstVersion) {
  FirstVersion("/docker/abc");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "300000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "400000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Cores(), 3);
}

// In a container the mount begins at its own cgroup, whose name is the host's all the same.
TEST_F(CpuCores, AreFoundWhereOnlyAPartOfTheHierarchyIsMounted) {
  FirstVersion("/docker/abc/inner", "/docker/abc");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us", "50000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us", "25000\n");
  EXPECT_EQ(Cores(), 2);
}

TEST(UsableCores, IsAtLeastOne) { EXPECT_GE(UsableCores(), 1); }

}  // namespace
}  // namespace mindforge
