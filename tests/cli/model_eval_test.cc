// `mindforge model eval` with the real binary; the fake's tokens are bytes, and byte b has the
// log-probability -b / 100.
#include <zstd.h>

#include <cmath>

#include "nlohmann/json.hpp"
#include "tests/cli/program_fixture.h"

namespace mindforge::cli {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ModelEvalTest : public ProgramTest {
 protected:
  Result Eval(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"model", "eval", "poet"});
    return Mindforge(std::move(arguments));
  }

  ModelEvalTest() {
    MutexLock lock(fake_.state.mutex);
    v1::Deployment deployment;
    deployment.mutable_spec()->set_name("poet");
    fake_.state.deployments.push_back(deployment);
  }
};

// Sum of bytes / 100 without the first, of the first `most` bytes.
double LossOf(const std::string& text, size_t most) {
  double sum = 0;
  for (size_t i = 1; i < std::min(text.size(), most); ++i) sum += 0.01 * text[i];
  return sum;
}

TEST_F(ModelEvalTest, AveragesOverAllPredictedTokens) {
  const std::vector<std::string> texts = {"abc", "x", "a longer text than thirty-one bytes, so cut",
                                          "to", "the end"};
  std::string jsonl;
  double sum = 0;
  int64_t tokens = 0;
  for (const std::string& text : texts) {
    jsonl += json{{"text", text}}.dump() + "\n";
    sum += LossOf(text, 31);
    tokens += static_cast<int64_t>(std::min<size_t>(text.size(), 31)) - 1;
  }
  const std::string path = Write("texts.jsonl", jsonl);
  const Result result = Eval({"--data", path, "-o", "json", "--parallel", "3"});
  ASSERT_EQ(result.exit, 0) << result.err;
  const json totals = json::parse(result.out);
  EXPECT_EQ(totals["texts"], 5);
  EXPECT_EQ(totals["cut_texts"], 1);
  EXPECT_EQ(totals["too_short_texts"], 1);
  EXPECT_EQ(totals["tokens"], tokens);
  EXPECT_EQ(totals["max_seq_len"], 31);  // the context of 32 keeps a place for the next token
  EXPECT_EQ(totals["weights_version"], "w1");
  const double loss = sum / static_cast<double>(tokens);
  EXPECT_NEAR(totals["loss"].get<double>(), loss, 1e-12);
  EXPECT_NEAR(totals["perplexity"].get<double>(), std::exp(loss), 1e-12);
  const Result words = Eval({"--data", path});
  EXPECT_THAT(words.out, AllOf(HasSubstr("1 cut to 31 tokens"), HasSubstr("1 too short"),
                               HasSubstr("Perplexity:")));
}

TEST_F(ModelEvalTest, CutsAndStopsAsAsked) {
  std::string jsonl;
  for (int i = 0; i < 20; ++i) jsonl += "{\"text\": \"abcdefgh\"}\n";
  std::string compressed(ZSTD_compressBound(jsonl.size()), '\0');
  compressed.resize(
      ZSTD_compress(compressed.data(), compressed.size(), jsonl.data(), jsonl.size(), 3));
  const Result result = Eval({"--data", Write("texts.jsonl.zst", compressed), "--limit", "7",
                              "--max-seq-len", "4", "-o", "json"});
  ASSERT_EQ(result.exit, 0) << result.err;
  const json totals = json::parse(result.out);
  EXPECT_EQ(totals["texts"], 7);
  EXPECT_EQ(totals["cut_texts"], 7);
  EXPECT_EQ(totals["tokens"], 21);
}

TEST_F(ModelEvalTest, RefusesReplicasThatComputeDifferently) {
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.numerics = {"cpu", "cuda"};
  }
  const std::string line = "{\"text\": \"good one\"}\n";
  const Result result = Eval({"--data", Write("two.jsonl", line + line), "--parallel", "1"});
  EXPECT_EQ(result.exit, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("cuda and cpu"), HasSubstr("one kind of device")));
}

TEST_F(ModelEvalTest, SaysWhatIsWrong) {
  const std::string good = "{\"text\": \"good one\"}\n";
  Result result = Eval({"--data", Write("broken.jsonl", good + "{\"txt\": 1}\n")});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err, HasSubstr("broken.jsonl, line 2: no field `text`"));
  const std::string gbk = TestData("text/gbk.jsonl");
  result = Eval({"--data", gbk});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err,
              HasSubstr("gbk.jsonl, line 1: not UTF-8 (looks like GBK) at offset 10, byte 0xB4"));
  result = Eval({"--data", gbk, "--malformed-lines", "skip", "-o", "json"});
  ASSERT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["texts"], 4);
  EXPECT_THAT(result.err, HasSubstr("20 lines cannot be used: line 1: not UTF-8"));
  result = Eval({"--data", TestData("text/plain.jsonl.gz"), "-o", "json"});
  ASSERT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["texts"], 24);
  result = Eval({"--data", "absent.jsonl"});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err, HasSubstr("absent.jsonl"));
  result = Eval({"--data", Write("short.jsonl", "{\"text\": \"x\"}\n")});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err, HasSubstr("nothing to predict"));
  EXPECT_EQ(Eval({"--data", Write("good.jsonl", good), "--parallel", "0"}).exit, 2);
  EXPECT_EQ(Mindforge({"model", "eval", "other", "--data", Write("good.jsonl", good)}).exit, 3);
}

}  // namespace
}  // namespace mindforge::cli
