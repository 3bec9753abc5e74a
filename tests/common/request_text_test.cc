#include "common/request_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mindforge/v1/inference_service.pb.h"
#include "mindforge/v1/job_service.pb.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

FieldViolation Bad(const google::protobuf::Message& message) {
  const absl::Status status = CheckText(message);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const auto violations = GetViolations(status);
  return violations.empty() ? FieldViolation{} : violations[0];
}

TEST(RequestText, NamesTheFieldAndTheByte) {
  v1::GenerateRequest request;
  request.set_text("caf\xe9");
  EXPECT_EQ(Bad(request).field, "text");
  EXPECT_THAT(Bad(request).description, HasSubstr("byte 0xE9 at offset 3"));

  request.mutable_chat()->add_messages()->set_content("fine: é 月");
  EXPECT_TRUE(CheckText(request).ok());
  request.mutable_chat()->add_messages()->set_content("\xc3");  // half a character
  EXPECT_EQ(Bad(request).field, "chat.messages[1].content");
}

TEST(RequestText, LooksIntoNestedAndRepeatedFields) {
  v1::SubmitJobRequest request;
  request.set_request_id("r");
  request.mutable_job()->set_name("ok");
  request.mutable_job()->mutable_data()->set_path("/data/\xff.jsonl");
  EXPECT_EQ(Bad(request).field, "job.data.path");
  v1::GenerateRequest generate;
  generate.mutable_stopping()->add_stop_strings("a");
  generate.mutable_stopping()->add_stop_strings("\xed\xa0\x80");  // a surrogate
  EXPECT_EQ(Bad(generate).field, "stopping.stop_strings[1]");
}

TEST(RequestText, BytesThatAreNoMessageHaveNoField) {
  const auto* type = v1::GenerateRequest::descriptor();
  const char* const cut = "\x12\x7f";  // a string of 127 bytes, of which none follows
  const auto bad = FindBadText(*type, cut);
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->field, "");
  EXPECT_THAT(bad->description, HasSubstr("mindforge.v1.GenerateRequest"));
  EXPECT_FALSE(FindBadText(*type, "").has_value());
  // What this program does not know is passed over, text or not.
  EXPECT_FALSE(FindBadText(*type, "\xfa\x3f\x02\xff\xfe").has_value());
}

TEST(RequestText, ChecksANameByItself) {
  EXPECT_TRUE(CheckText("name", "gpu-1").ok());
  EXPECT_THAT(std::string(CheckText("name", "\x80").message()), HasSubstr("name: is not UTF-8"));
}

}  // namespace
}  // namespace mindforge
