// Files that would harm who loads them with Python, or a reader that trusts them.
#include <zlib.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/gzip.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/pth.h"

namespace mindforge {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

using Status = absl::StatusCode;

// An archive with this pickle and a storage `0` of 16 bytes.
std::string WithPickle(const TempDir& dir, const std::string& pickle) {
  const std::string path = dir.File("hostile.pth");
  auto zip = ZipWriter::Create(path);
  EXPECT_TRUE(zip.ok());
  EXPECT_TRUE((*zip)->Add("archive/data.pkl", pickle).ok());
  EXPECT_TRUE((*zip)->Add("archive/data/0", std::string(16, 'x')).ok());
  EXPECT_TRUE((*zip)->Finish().ok());
  return path;
}

void ExpectRefused(const std::string& path, Status code, const std::string& says) {
  const auto file = PthFile::Open(path);
  EXPECT_EQ(file.status().code(), code) << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(says));
}

void ExpectRefusedPickle(const std::string& pickle, Status code, const std::string& says) {
  TempDir dir;
  ExpectRefused(WithPickle(dir, pickle), code, says);
}

struct TensorSpec {
  int64_t offset = 0;
  std::vector<int64_t> shape = {4};
  std::vector<int64_t> strides = {1};
  int64_t claimed = 4;
  std::string storage = "FloatStorage";
  std::string key = "0";
};

std::string TensorPickle(const TensorSpec& spec) {
  PickleWriter pickle;
  pickle.BeginDict();
  pickle.Text("w");
  pickle.Global("torch._utils", "_rebuild_tensor_v2");
  pickle.BeginTuple();
  pickle.BeginTuple();
  pickle.Text("storage");
  pickle.Global("torch", spec.storage);
  pickle.Text(spec.key);
  pickle.Text("cpu");
  pickle.Int(spec.claimed);
  pickle.EndTuple();
  pickle.Persistent();
  pickle.Int(spec.offset);
  for (const std::vector<int64_t>* sizes : {&spec.shape, &spec.strides}) {
    pickle.BeginTuple();
    for (const int64_t size : *sizes) pickle.Int(size);
    pickle.EndTuple();
  }
  pickle.EndTuple();
  pickle.Call();
  pickle.EndDict();
  return std::move(pickle).Finish();
}

TEST(HostilePth, TheHarmlessTwinIsRead) {
  TempDir dir;
  EXPECT_TRUE(PthFile::Open(WithPickle(dir, TensorPickle({}))).ok());
}

TEST(HostilePth, GlobalsThatRunCodeAreNamedAndRefused) {
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                        {"posix", "system"},
                                                        {"subprocess", "Popen"},
                                                        {"builtins", "eval"},
                                                        {"builtins", "getattr"},
                                                        {"torch", "load"},
                                                        {"torch.storage", "_load_from_bytes"},
                                                        {"collections", "OrderedDict.fromkeys"}}) {
    PickleWriter pickle;
    pickle.Global(module, name);
    pickle.BeginTuple();
    pickle.Text("touch /tmp/owned");
    pickle.EndTuple();
    pickle.Call();
    ExpectRefusedPickle(std::move(pickle).Finish(), Status::kInvalidArgument,
                        "\"" + module + "." + name + "\"");
  }
}

TEST(HostilePth, GlobalsFromTheStackAreRefusedToo) {
  PickleWriter pickle;
  pickle.Text("os");
  pickle.Text("system");
  std::string bytes = std::move(pickle).Finish();
  bytes.insert(bytes.size() - 1, "\x93");
  ExpectRefusedPickle(bytes, Status::kInvalidArgument, "\"os.system\"");
}

TEST(HostilePth, OpcodesBeyondStateDictsAreRefused) {
  for (const char opcode : {'i', 'o', '\x81', '\x92', '\x82', 'P', 'B', 'F', 'I', 'S', '\xff'}) {
    ExpectRefusedPickle(std::string("\x80\x02") + opcode + "os\nsystem\n.",
                        Status::kInvalidArgument, "opcode");
  }
}

TEST(HostilePth, ValuesThatContainThemselvesAreRefused) {
  ExpectRefusedPickle(std::string("\x80\x02]q\x00h\x00"
                                  "a.",
                                  9),
                      Status::kInvalidArgument, "contains itself");
  ExpectRefusedPickle(std::string("\x80\x02}q\x00K\x01h\x00s.", 11), Status::kInvalidArgument,
                      "contains itself");
}

TEST(HostilePth, DeepAndSharedNestingEnds) {
  std::string deep = "\x80\x02";
  for (int i = 0; i < 100'000; ++i) deep += ']';
  for (int i = 1; i < 100'000; ++i) deep += 'a';
  ExpectRefusedPickle(deep + ".", Status::kResourceExhausted, "deep");
  // Each list holds the one before it ten times: 10^40 leaves if they were counted.
  std::string shared = "\x80\x02]q";
  shared += '\0';
  for (int i = 0; i < 40; ++i) {
    shared += "](";
    for (int k = 0; k < 10; ++k) shared += std::string("h") + static_cast<char>(i);
    shared += std::string("eq") + static_cast<char>(i + 1);
  }
  shared += "\x85";
  // 41 lists were left on the stack below the tuple.
  ExpectRefusedPickle(shared + ".", Status::kDataLoss, "leaves values behind");
}

TEST(HostilePth, MemoryIsBoundedWhateverThePickleRepeats) {
  std::string memo = "\x80\x02N";  // one value, remembered under ever new numbers
  memo.append(1'100'000, '\x94');
  ExpectRefusedPickle(memo + ".", Status::kResourceExhausted, "remembers");
  // A tuple of many items, the arguments of one call after the other.
  std::string calls = "\x80\x02";
  calls += "ctorch._utils\n_rebuild_tensor_v2\nq";
  calls += '\0';
  calls += "(";
  calls.append(100'000, 'N');
  calls += "tq\x01";
  for (int i = 0; i < 1000; ++i) {
    calls += std::string("h\0h\x01R", 5);
  }
  ExpectRefusedPickle(calls + ".", Status::kResourceExhausted, "hold more");
}

TEST(HostilePth, MalformedPicklesAreRefused) {
  for (const std::string& pickle :
       {std::string(), std::string("\x80\x02"), std::string("\x80\x02."), std::string("\x80\x02t."),
        std::string("\x80\x02(u."), std::string("\x80\x02Ns."),
        std::string("\x80\x02X\xff\xff\xff\xff"), std::string("\x80\x02j\x01\x02\x03\x04."),
        std::string("\x80\x02NN."), std::string("\x80\x02)R."), std::string("\x80\x02N)R."),
        std::string("\x80\x02}(Ku."), std::string("\x80\x02NQb."), std::string("\x80\x09N."),
        std::string("\x80\x02\x8a\xffx.")}) {
    TempDir dir;
    EXPECT_THAT(PthFile::Open(WithPickle(dir, pickle)).status().code(),
                AnyOf(Status::kDataLoss, Status::kInvalidArgument))
        << pickle;
  }
}

TEST(HostilePth, TensorsStayInsideTheirStorage) {
  const int64_t huge = int64_t{1} << 62;
  const std::vector<std::pair<TensorSpec, std::string>> cases = {
      {{.offset = 1}, "outside"},
      {{.offset = huge}, "begin inside"},
      {{.offset = -1}, "begin inside"},
      {{.strides = {2}}, "outside"},
      {{.strides = {huge}}, "outside"},
      {{.strides = {-1}}, "no size"},
      {{.shape = {5}}, "larger"},
      {{.shape = {huge}}, "larger"},
      {{.shape = {huge, huge, huge}, .strides = {0, 0, 0}}, "larger"},
      {{.shape = {-4}}, "no size"},
      {{.shape = {2, 2}}, "begin inside"},
      {{.shape = {1000}, .strides = {0}}, "larger"},
      {{.claimed = 5}, "claims"},
      {{.claimed = huge}, "claims"},
      {{.storage = "DoubleStorage"}, "claims"},
      {{.key = "1"}, "no storage"},
      {{.key = "../../etc/passwd"}, "no storage"},
      {{.shape = std::vector<int64_t>(40, 1), .strides = std::vector<int64_t>(40, 1)},
       "dimensions"}};
  for (const auto& [spec, says] : cases) {
    ExpectRefusedPickle(TensorPickle(spec), Status::kDataLoss, says);
  }
}

TEST(HostilePth, TensorsOfNoStorageAreRefused) {
  PickleWriter pickle;
  pickle.Global("torch._utils", "_rebuild_tensor_v2");
  pickle.BeginTuple();
  for (int i = 0; i < 4; ++i) pickle.None();
  pickle.EndTuple();
  pickle.Call();
  ExpectRefusedPickle(std::move(pickle).Finish(), Status::kDataLoss, "storage");
}

// A one-entry archive by hand, so that its fields can lie.
struct RawZip {
  std::string name = "archive/data.pkl";
  std::string content;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t bytes = 0;
  uint32_t offset = 0;

  std::string Build() const {
    std::string out;
    const auto put = [&out](auto value) {
      out.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    const auto stored = static_cast<uint32_t>(content.size());
    put(uint32_t{0x04034b50});
    for (const uint16_t value : {uint16_t{20}, flags, method, uint16_t{0}, uint16_t{0}}) put(value);
    for (const uint32_t value : {uint32_t{0}, stored, bytes}) put(value);
    put(static_cast<uint16_t>(name.size()));
    put(uint16_t{0});
    out += name + content;
    const auto directory = static_cast<uint32_t>(out.size());
    put(uint32_t{0x02014b50});
    for (const uint16_t value :
         {uint16_t{20}, uint16_t{20}, flags, method, uint16_t{0}, uint16_t{0}})
      put(value);
    for (const uint32_t value : {uint32_t{0}, stored, bytes}) put(value);
    put(static_cast<uint16_t>(name.size()));
    for (int i = 0; i < 4; ++i) put(uint16_t{0});
    put(uint32_t{0});
    put(offset);
    out += name;
    const auto length = static_cast<uint32_t>(out.size()) - directory;
    put(uint32_t{0x06054b50});
    for (const uint16_t value : {uint16_t{0}, uint16_t{0}, uint16_t{1}, uint16_t{1}}) put(value);
    put(length);
    put(directory);
    put(uint16_t{0});
    return out;
  }
};

TEST(HostileZip, BombsAreRefusedBeforeTheyUnfold) {
  TempDir dir;
  const std::string bomb = Deflated(std::string(1 << 20, '\0'), -MAX_WBITS, 9);
  RawZip zip{.content = bomb, .method = 8, .bytes = 0xFFFFFF00};
  ExpectRefused(dir.Write("bomb.pth", zip.Build()), Status::kResourceExhausted, "claims");
  zip.bytes = 1000;  // lies: more comes out
  ExpectRefused(dir.Write("bomb.pth", zip.Build()), Status::kDataLoss, "inflate");
  zip.bytes = 2 << 20;  // less
  ExpectRefused(dir.Write("bomb.pth", zip.Build()), Status::kDataLoss, "inflate");
}

TEST(HostileZip, ArchivesThatLieAreRefused) {
  TempDir dir;
  const std::string pickle = "\x80\x02}.";
  const RawZip good{.content = pickle, .bytes = 4};
  ExpectRefused(dir.Write("a.pth", good.Build()), Status::kDataLoss, "CRC-32");  // it states 0
  RawZip bad = good;
  bad.flags = 1;
  ExpectRefused(dir.Write("a.pth", bad.Build()), Status::kInvalidArgument, "encrypted");
  bad = good;
  bad.method = 12;
  ExpectRefused(dir.Write("a.pth", bad.Build()), Status::kInvalidArgument, "method 12");
  bad = good;
  bad.bytes = 5;
  ExpectRefused(dir.Write("a.pth", bad.Build()), Status::kDataLoss, "two sizes");
  bad = good;
  bad.offset = 0x7FFFFFFF;
  ExpectRefused(dir.Write("a.pth", bad.Build()), Status::kDataLoss, "not where");
  bad = good;
  bad.name = "archive/other.pkl";
  ExpectRefused(dir.Write("a.pth", bad.Build()), Status::kInvalidArgument, "no data.pkl");
}

TEST(HostileZip, EveryTruncationIsRefused) {
  TempDir dir;
  const std::string whole = ReadBytes(TestData("pth/resume.pth"));
  for (size_t length = 0; length < whole.size(); length += 7) {
    ASSERT_FALSE(PthFile::Open(dir.Write("cut.pth", whole.substr(0, length))).ok()) << length;
  }
}

TEST(HostileZip, NoChangedByteCrashesTheReader) {
  TempDir dir;
  const std::string whole = ReadBytes(TestData("pth/state_dict.pth"));
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
    PthFile::Open(dir.Write("flip.pth", changed)).status().IgnoreError();  // either is sound
  }
}

}  // namespace
}  // namespace mindforge
