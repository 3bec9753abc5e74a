// The token cache over several starts and hosts: what is read again, what is checked when, and
// whose files stay.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/error_details.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/minimind_tokenizer.h"
#include "tests/formats/temp_dir.h"
#include "worker/data/token_cache.h"
#include "worker/data/token_file.h"

namespace mindforge {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Bytes that this process has read from files and pipes so far.
int64_t BytesRead() {
  std::ifstream io("/proc/self/io");
  std::string word;
  int64_t bytes = 0;
  while (io >> word >> bytes) {
    if (word == "rchar:") return bytes;
  }
  ADD_FAILURE() << "/proc/self/io has no rchar";
  return 0;
}

std::string BootPrefix() { return ReadBytes("/proc/sys/kernel/random/boot_id").substr(0, 8); }

class CacheHostsTest : public testing::Test {
 protected:
  CacheHostsTest() {
    std::string content;
    for (int i = 0; content.size() < (size_t{600} << 10); ++i) {
      content += "{\"text\": \"line " + std::to_string(i * 7919 % 100'003) + " of a file\"}\n";
    }
    options_.paths = {dir_.Write("data.jsonl", content)};
  }

  std::unique_ptr<TokenCache> Open() {
    auto cache = TokenCache::Open(options_, MiniMind());
    EXPECT_TRUE(cache.ok()) << cache.status();
    return cache.ok() ? *std::move(cache) : nullptr;
  }
  std::string CacheFile() const {
    for (const auto& entry : fs::directory_iterator(options_.cache_dir)) {
      if (entry.path().extension() == ".tokens") return entry.path();
    }
    return "";
  }
  std::vector<std::string> Temporaries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(options_.cache_dir)) {
      if (entry.path().string().find(".tmp-") != std::string::npos) names.push_back(entry.path());
    }
    return names;
  }
  int64_t DataBytes() const { return static_cast<int64_t>(fs::file_size(options_.paths[0])); }

  TempDir dir_;
  TokenCacheOptions options_{
      .cache_dir = dir_.File("cache"), .threads = 1, .settled_after = -absl::Seconds(1)};
};

TEST_F(CacheHostsTest, ALaterStartReadsNoData) {
  const std::string digest = Open()->dataset_digest();
  const int64_t before = BytesRead();
  const auto again = Open();
  EXPECT_LT(BytesRead() - before, DataBytes() / 4);
  EXPECT_EQ(again->dataset_digest(), digest);
}

TEST_F(CacheHostsTest, NoticesADifferenceThatSizeAndTimeDoNotShow) {
  const std::string digest = Open()->dataset_digest();
  struct stat was {};
  ASSERT_EQ(::stat(options_.paths[0].c_str(), &was), 0);
  {
    std::fstream file(options_.paths[0], std::ios::in | std::ios::out);
    file.seekp(15);
    file << 'x';
  }
  const timespec times[] = {was.st_atim, was.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, options_.paths[0].c_str(), times, 0), 0);
  EXPECT_EQ(static_cast<int64_t>(was.st_size), DataBytes());
  EXPECT_NE(Open()->dataset_digest(), digest);
}

TEST_F(CacheHostsTest, ReadsOnlyTheFilesThatChanged) {
  const std::string small = dir_.Write("small.jsonl", "{\"text\": \"one two\"}\n");
  options_.paths.push_back(small);
  const std::string digest = Open()->dataset_digest();
  WriteBytes(small, "{\"text\": \"one six\"}\n");
  std::vector<int64_t> tokenized;
  options_.expected_digest = digest;  // ends before anything is tokenized
  options_.progress = [&](const TokenCacheProgress& progress) {
    if (progress.phase == TokenCacheProgress::Phase::kTokenizing) tokenized.push_back(1);
  };
  const int64_t before = BytesRead();
  const absl::Status status = TokenCache::Open(options_, MiniMind()).status();
  EXPECT_LT(BytesRead() - before, DataBytes() / 4);
  EXPECT_EQ(GetReason(status), kAnotherDataset) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("at first start " + digest));
  EXPECT_THAT(tokenized, IsEmpty());
}

// Its times may be those of a second change in the same moment.
TEST_F(CacheHostsTest, DoesNotTrustTheTimesOfAFileThatJustChanged) {
  options_.settled_after = absl::Hours(1);
  Open();
  const int64_t before = BytesRead();
  Open();
  EXPECT_GT(BytesRead() - before, DataBytes());
}

TEST_F(CacheHostsTest, ADamagedRecordIsNone) {
  const std::string digest = Open()->dataset_digest();
  for (const auto& entry : fs::directory_iterator(options_.cache_dir)) {
    if (entry.path().extension() != ".json") continue;
    std::string text = ReadBytes(entry.path());
    const size_t at = text.rfind(']') - 1;  // in the file's digest
    text[at] = text[at] == '1' ? '2' : '1';
    WriteBytes(entry.path(), text);
  }
  const int64_t before = BytesRead();
  EXPECT_EQ(Open()->dataset_digest(), digest);
  EXPECT_GT(BytesRead() - before, DataBytes());
}

TEST_F(CacheHostsTest, ADamagedBlockIsFoundAtItsFirstUseAndMadeAnew) {
  Open();
  const std::string file = CacheFile();
  const std::string sound = ReadBytes(file);
  const size_t at = sizeof(TokenFileHeader) + TokenFileHeader::kBlockBytes + 100;
  ASSERT_GT(sound.size(), at + 2 * TokenFileHeader::kBlockBytes);
  std::string damaged = sound;
  damaged[at] = static_cast<char>(damaged[at] ^ 1);
  WriteBytes(file, damaged);
  {
    const auto cache = Open();
    EXPECT_EQ(ReadBytes(file), damaged) << "opening is no pass over the file";
    int64_t id = 0;
    cache->CopyIds(0, 0, {&id, 1});
    EXPECT_TRUE(cache->status().ok());
    for (int64_t d = 0; d < cache->documents() && cache->status().ok(); ++d) {
      cache->CopyIds(d, 0, {&id, 1});
    }
    EXPECT_EQ(cache->status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(cache->status().message()),
                HasSubstr("damaged in the block at byte " +
                          std::to_string(sizeof(TokenFileHeader) + TokenFileHeader::kBlockBytes)));
    EXPECT_FALSE(fs::exists(file));
  }
  const auto cache = Open();
  EXPECT_EQ(ReadBytes(file), sound);
  std::vector<int64_t> ids(cache->DocumentLength(0));
  for (int64_t d = 0; d < cache->documents(); ++d) {
    ids.resize(cache->DocumentLength(d));
    cache->CopyIds(d, 0, absl::MakeSpan(ids));
  }
  EXPECT_TRUE(cache->status().ok());
}

// Two hosts that do not see each other's locks build at once.
TEST_F(CacheHostsTest, TheFirstToFinishIsEverybodysAndNobodyIsBlamed) {
  fs::create_directories(options_.cache_dir);
  const std::string path = dir_.File("cache/x.tokens");
  auto first = TokenFileWriter::Create(path, 2);
  auto second = TokenFileWriter::Create(path, 2);
  auto third = TokenFileWriter::Create(path, 2);
  ASSERT_TRUE(first.ok() && second.ok() && third.ok());
  const std::vector<int32_t> ids = {1, 2, 3};
  for (auto* writer : {&first, &second, &third}) ASSERT_TRUE((**writer)->Append(ids, {3}).ok());
  ASSERT_TRUE((*first)->Finish({}).ok());
  struct stat published {};
  ASSERT_EQ(::stat(path.c_str(), &published), 0);
  EXPECT_TRUE((*second)->Finish({}).ok());
  struct stat after {};
  ASSERT_EQ(::stat(path.c_str(), &after), 0);
  EXPECT_EQ(after.st_ino, published.st_ino) << "those that mapped the first still can read it";
  first->reset();
  second->reset();

  const std::vector<std::string> left = Temporaries();
  ASSERT_EQ(left.size(), 1u);
  fs::remove(left[0]);
  fs::remove(path);
  const absl::Status status = (*third)->Finish({});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  ASSERT_EQ(GetViolations(status).size(), 1u);
  EXPECT_EQ(GetViolations(status)[0].field, "data.cache_dir");
}

TEST_F(CacheHostsTest, RemovesItsOwnDeadTemporariesAlone) {
  Open();
  const std::string file = CacheFile();
  const std::string dead = file + ".tmp-" + BootPrefix() + "-dead";
  const std::string alive = file + ".tmp-" + BootPrefix() + "-alive";
  const std::string elsewhere = file + ".tmp-01234567-elsewhere";
  const std::string older = file + ".tmp-abandoned";
  for (const std::string& path : {dead, alive, elsewhere, older}) WriteBytes(path, "half a cache");
  const UniqueFd held(::open(alive.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::flock(held.get(), LOCK_EX), 0);
  fs::remove(file);
  Open();
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(elsewhere));
  EXPECT_TRUE(fs::exists(older));
}

TEST_F(CacheHostsTest, TellsEveryJobWhatTheCacheLeavesOut) {
  options_.paths = {dir_.Write("bad.jsonl", "{\"text\": \"one two\"}\nbroken\n{\"txt\": 1}\n")};
  options_.malformed = MalformedLines::kSkip;
  for (int round = 0; round < 2; ++round) {  // built, then reused
    EXPECT_THAT(Open()->notes(), testing::MatchesRegex(".*bad.jsonl: 2 lines cannot be used: line "
                                                       "2: not JSON.*; line 3: no field `text`"));
  }
}

}  // namespace
}  // namespace mindforge
