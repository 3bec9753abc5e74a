#include "worker/tokenizer/python_json.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/tokenizer/python_float.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

std::string Written(std::string_view text) {
  const auto out = ToPythonJson(text);
  EXPECT_TRUE(out.ok()) << text << ": " << out.status();
  return out.value_or("");
}

std::string WhyNot(std::string_view text) {
  const auto out = ToPythonJson(text);
  EXPECT_EQ(out.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(out.status().message());
}

// Expected texts from Python 3.11's json.dumps(json.loads(text), ensure_ascii=False).
TEST(PythonJson, WritesSpacesKeysAndEscapesAsPython) {
  EXPECT_EQ(Written(R"( {"b":1,"a":[1,2,{}],"c":[],"d":{"e":null}} )"),
            R"({"b": 1, "a": [1, 2, {}], "c": [], "d": {"e": null}})");
  EXPECT_EQ(Written(R"({"a":1,"b":2,"a":3})"), R"({"a": 3, "b": 2})");
  EXPECT_EQ(Written(R"("\u4e2d\ud83d\ude00\/\u0001\u007f\b\f\n\r\t\"\\é")"),
            "\"中😀/\\u0001\x7f\\b\\f\\n\\r\\t\\\"\\\\é\"");
  EXPECT_EQ(Written(R"([true,false,null])"), "[true, false, null]");
}

TEST(PythonJson, WritesNumbersAsPython) {
  EXPECT_EQ(Written("[0,-0,12345678901234567890123,-7]"), "[0, 0, 12345678901234567890123, -7]");
  EXPECT_EQ(Written("[1.0,-0.0,1e5,1E-5,0.0001,1e16,123456789012345680,1.5e300,1e-400]"),
            "[1.0, -0.0, 100000.0, 1e-05, 0.0001, 1e+16, 123456789012345680, 1.5e+300, 0.0]");
  EXPECT_EQ(Written("[0.1,2.50,3.141592653589793238,1e15,5e-324,1e23,9007199254740993.0]"),
            "[0.1, 2.5, 3.141592653589793, 1000000000000000.0, 5e-324, 1e+23, 9007199254740992.0]");
  EXPECT_EQ(Written("[1e400,-1e400]"), "[Infinity, -Infinity]");
  EXPECT_EQ(PythonFloat(100), "100.0");
  EXPECT_EQ(PythonFloat(1234.5), "1234.5");
  EXPECT_EQ(PythonFloat(0.00012), "0.00012");
}

TEST(PythonJson, SaysWhatIsNotJsonAndWhere) {
  EXPECT_THAT(WhyNot(""), HasSubstr("a value is missing at byte 1"));
  EXPECT_THAT(WhyNot("{\"a\":}"), HasSubstr("a value is missing at byte 6"));
  EXPECT_THAT(WhyNot("{a:1}"), HasSubstr("double quotes"));
  EXPECT_THAT(WhyNot("[1,]"), HasSubstr("a value is missing"));
  EXPECT_THAT(WhyNot("[1"), HasSubstr("comma or ]"));
  EXPECT_THAT(WhyNot("1 2"), HasSubstr("something follows"));
  EXPECT_THAT(WhyNot("01"), HasSubstr("something follows"));
  EXPECT_THAT(WhyNot("[NaN]"), HasSubstr("NaN, which JSON does not have"));
  EXPECT_THAT(WhyNot("\"\\ud800\""), HasSubstr("surrogate"));
  EXPECT_THAT(WhyNot("\"\\ude00\""), HasSubstr("surrogate"));
  EXPECT_THAT(WhyNot("\"\\u12\""), HasSubstr("four hexadecimal digits"));
  EXPECT_THAT(WhyNot("\"\\"), HasSubstr("escape"));
  EXPECT_THAT(WhyNot("\"a\nb\""), HasSubstr("control character"));
  EXPECT_THAT(WhyNot("\"caf\xe9\""), HasSubstr("UTF-8"));
  EXPECT_THAT(WhyNot(std::string(100'000, '[')), HasSubstr("levels"));
  EXPECT_THAT(std::string(ToPythonJsonObject("[1]").status().message()), HasSubstr("object"));
}

}  // namespace
}  // namespace mindforge
