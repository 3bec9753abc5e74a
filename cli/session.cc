#include "cli/session.h"

#include <signal.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/config.h"
#include "common/error_details.h"
#include "common/grpc_client.h"
#include "common/net.h"
#include "common/status_macros.h"

namespace mindforge::cli {
namespace {

constexpr absl::Duration kDeadlineSlack = absl::Milliseconds(50);
constexpr absl::Duration kConnectSlice = absl::Milliseconds(50);  // how soon Ctrl-C is noticed

}  // namespace

Session::Session(std::ostream& out, std::ostream& err, Terminal out_terminal, Terminal err_terminal)
    : out_(out), err_(err), out_terminal_(out_terminal), err_terminal_(err_terminal) {}

void Session::PrintMessage(const google::protobuf::Message& message) {
  const PrintOptions print = {.with_defaults = true};
  if (options.output == OutputFormat::kYaml) {
    out_ << ProtoToYaml(message, print);
  } else {
    out_ << ProtoToJson(message, print) << "\n";
  }
}

void Session::PrintLine(const google::protobuf::Message& message) {
  if (options.output == OutputFormat::kYaml) {
    out_ << "---\n" << ProtoToYaml(message, {.with_defaults = true}) << std::flush;
  } else {
    out_ << ProtoToJson(message, {.with_defaults = true, .indent = -1}) << std::endl;
  }
}

std::string Session::ServerFlag() const {
  return options.server == kDefaultServer ? "" : absl::StrCat(" --server ", options.server);
}

void Session::Note(std::string_view text) {
  err_ << "mindforge: " << EscapeControls(text) << std::endl;
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Session::Connect() {
  if (channel_ != nullptr) return channel_;
  if (const auto address = ParseHostPort(options.server); !address.ok()) {
    return InvalidArgument("--server", std::string(address.status().message()));
  }
  shutdown();
  auto channel = MakeChannel(options.server, {.ca_file = options.tls_ca,
                                              .token_file = options.token_file,
                                              .max_reconnect_backoff = absl::Seconds(1)});
  if (!channel.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(channel.status().message(),
                     ". Check --tls-ca and --token-file (or MINDFORGE_TOKEN_FILE)."));
  }
  channel_ = *std::move(channel);
  return channel_;
}

void Session::StartClock() {
  deadline_ = options.timeout == absl::InfiniteDuration() ? absl::InfiniteFuture()
                                                          : absl::Now() + options.timeout;
}

bool Session::TimeoutRanOut() const { return absl::Now() + kDeadlineSlack >= deadline_; }

Shutdown& Session::shutdown() {
  if (shutdown_ == nullptr) {
    // A reader of our output that is gone ends us as it does `cat` before `head`, unless whoever
    // started us ignores that.
    struct sigaction broken_pipe {};
    sigaction(SIGPIPE, nullptr, &broken_pipe);
    shutdown_ = std::make_unique<Shutdown>();
    sigaction(SIGPIPE, &broken_pipe, nullptr);
    shutdown_->OnRequest([this] {
      MutexLock lock(mutex_);
      cancelled_ = true;
      for (grpc::ClientContext* call : calls_) call->TryCancel();
    });
  }
  return *shutdown_;
}

bool Session::Pause(absl::Duration duration) {
  const absl::Duration left = deadline_ - absl::Now();
  if (shutdown().WaitFor(std::min(duration, std::max(left, absl::ZeroDuration())))) return false;
  return left > duration;
}

bool Session::PauseUntilConnected(absl::Duration duration) {
  const absl::Time end = std::min(deadline_, absl::Now() + duration);
  if (channel_->GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_READY) return Pause(duration);
  while (!interrupted() && absl::Now() < end) {
    const absl::Time slice = std::min(end, absl::Now() + kConnectSlice);
    if (channel_->WaitForConnected(absl::ToChronoTime(slice))) break;
  }
  return !interrupted() && absl::Now() < deadline_;
}

void Session::TakeInterrupts(std::function<void()> callback) {
  shutdown().TakeInterrupts(std::move(callback));
}

void Session::CancelCalls() {
  MutexLock lock(mutex_);
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

void Session::AddCall(grpc::ClientContext* context) {
  MutexLock lock(mutex_);
  calls_.insert(context);
  if (cancelled_) context->TryCancel();
}

void Session::RemoveCall(grpc::ClientContext* context) {
  MutexLock lock(mutex_);
  calls_.erase(context);
}

}  // namespace mindforge::cli
