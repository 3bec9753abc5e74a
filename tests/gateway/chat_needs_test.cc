// Chats with tools and reasoning go to workers whose build renders them.
#include "coordinator/gateway/chat_needs.h"

#include "gmock/gmock.h"
#include "tests/gateway/gateway_fixture.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

class ChatNeeds : public GatewayTest {
 protected:
  // As a worker sees a request of each kind.
  static std::vector<v1::GenerateRequest> Needing() {
    std::vector<v1::GenerateRequest> requests(3, Plain());
    requests[0].mutable_chat()->add_tools("{}");
    requests[1].mutable_chat()->mutable_messages(0)->add_tool_calls()->set_name("weather");
    requests[2].mutable_chat()->mutable_messages(0)->set_reasoning_content("");
    return requests;
  }
  static v1::GenerateRequest Plain() {
    v1::GenerateRequest request = Request(3);
    request.mutable_chat()->add_messages()->set_role("assistant");
    return request;
  }
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::InferenceService::Stub::*method)(grpc::ClientContext*,
                                                                       const Request&, Response*),
                    const Request& request) {
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(60));
    Response response;
    return FromGrpcStatus((stub_.get()->*method)(&context, request, &response));
  }
};

TEST_F(ChatNeeds, GoToWorkersThatRenderThem) {
  FakeWorker old("a"), newer("b");
  Register(old, "v1", "n1", /*renders_tools=*/false);
  Register(newer);
  for (const v1::GenerateRequest& request : Needing()) {
    for (int i = 0; i < 2; ++i) EXPECT_EQ(Generate(request).started.worker_id(), "b");
  }
  EXPECT_EQ(old.requests().size(), 0u);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Generate(Plain()).status.ok());
  EXPECT_GT(old.requests().size(), 0u) << "a plain chat goes to either";
}

TEST_F(ChatNeeds, AreRefusedWhereNobodyRendersThem) {
  FakeWorker old("a");
  Register(old, "v1", "n1", /*renders_tools=*/false);
  const v1::GenerateRequest request = Needing()[0];
  v1::GenerateUnaryRequest unary;
  *unary.mutable_request() = request;
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat() = request.chat();
  for (const absl::Status& status :
       {Generate(request).status, Call(&v1::InferenceService::Stub::GenerateUnary, unary),
        Call(&v1::InferenceService::Stub::Tokenize, tokenize)}) {
    EXPECT_EQ(GetReason(status), "NO_WORKER") << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("a is of a build that knows no tools"));
  }
}

}  // namespace
}  // namespace mindforge
