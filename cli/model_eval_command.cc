// `mindforge model eval`: how well a served model predicts texts. Each text is scored by Generate
// with prompt_logprobs, several at once; sums are in the texts' order, so that a run can be
// repeated to the last digit.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/json_output.h"
#include "cli/key_values.h"
#include "cli/rpc.h"
#include "cli/text_feed.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge::cli {
namespace {

using v1::InferenceService;

// TokenizeRequest's limit. The rest of a longer text would be cut anyway: no context holds as much.
constexpr size_t kMaxTokenizeBytes = 1 << 20;
constexpr int kMaxParallel = 64;
constexpr size_t kTextsPerThread = 8;  // before sums are taken and progress is shown
constexpr int kAttempts = 6;
constexpr absl::Duration kFirstPause = absl::Milliseconds(200);
constexpr absl::Duration kScoreTimeout = absl::Minutes(10);
constexpr absl::Duration kNoteEvery = absl::Seconds(10);

struct EvalFlags {
  std::string name;
  std::vector<std::string> data;
  std::optional<int64_t> max_seq_len;
  int64_t limit = 0;  // 0: all
  int parallel = 8;
  std::string malformed_lines = "refuse";
};

// What one text says about the model.
struct Score {
  double loss_sum = 0;  // nats
  int64_t tokens = 0;   // predicted ones: all but the text's first
  bool cut = false;
  std::string weights_version;
  std::string numerics_id;
};

// All texts so far.
struct Totals {
  int64_t texts = 0;
  int64_t cut = 0;
  int64_t too_short = 0;  // fewer than two tokens: nothing to predict
  int64_t tokens = 0;
  double loss_sum = 0;
  std::string weights_version;
  std::string numerics_id;

  double loss() const { return loss_sum / static_cast<double>(tokens); }
};

// Up to `count` texts; none at the end.
absl::StatusOr<std::vector<std::string>> NextTexts(TextFeed& feed, size_t count) {
  std::vector<std::string> texts;
  while (texts.size() < count) {
    ASSIGN_OR_RETURN(std::optional<std::string> text, feed.Next());
    if (!text.has_value()) break;
    texts.push_back(*std::move(text));
  }
  return texts;
}

// Scores texts on several threads.
class Scorer {
 public:
  Scorer(Session& session, InferenceService::Stub& stub, std::string model, int64_t max_tokens,
         int threads)
      : session_(session),
        stub_(stub),
        model_(std::move(model)),
        max_tokens_(max_tokens),
        threads_(threads) {}

  // In the texts' order; the first error of any.
  absl::StatusOr<std::vector<Score>> ScoreAll(const std::vector<std::string>& texts) {
    std::vector<std::optional<absl::StatusOr<Score>>> scores(texts.size());
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    const auto work = [&] {
      for (size_t i = next++; i < texts.size() && !failed; i = next++) {
        scores[i] = ScoreText(texts[i]);
        if (!scores[i]->ok()) failed = true;
      }
    };
    std::vector<std::thread> workers;
    for (int t = 1; t < threads_; ++t) workers.emplace_back(work);
    work();
    for (std::thread& worker : workers) worker.join();
    // Texts that were not looked at any more, because another had failed, say nothing.
    for (const auto& score : scores) {
      if (score.has_value()) RETURN_IF_ERROR(score->status());
    }
    std::vector<Score> all;
    for (auto& score : scores) all.push_back(**std::move(score));
    return all;
  }

 private:
  // A server that is full, or swaps weights, takes the call a little later.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Patiently(grpc::Status (InferenceService::Stub::*method)(
                                         grpc::ClientContext*, const Request&, Response*),
                                     const Request& request) {
    absl::Duration pause = kFirstPause;
    for (int attempt = 1;; ++attempt) {
      absl::StatusOr<Response> response =
          Call(session_, {.what = "evaluate", .timeout = kScoreTimeout}, stub_, method, request);
      const bool later =
          absl::IsResourceExhausted(response.status()) || absl::IsUnavailable(response.status());
      if (!later || attempt == kAttempts || !session_.Pause(pause)) return response;
      pause *= 2;
    }
  }

  absl::StatusOr<Score> ScoreText(const std::string& text) {
    v1::TokenizeRequest tokenize;
    tokenize.set_model(model_);
    std::string_view sent = text;
    if (sent.size() > kMaxTokenizeBytes) {
      sent = sent.substr(0, kMaxTokenizeBytes);
      sent = sent.substr(0, CompleteUtf8Prefix(sent));
    }
    tokenize.set_text(std::string(sent));
    ASSIGN_OR_RETURN(const v1::TokenizeResponse ids,
                     Patiently(&InferenceService::Stub::Tokenize, tokenize));
    Score score;
    score.cut = ids.token_ids_size() > max_tokens_ || sent.size() < text.size();
    const auto count = static_cast<int>(std::min<int64_t>(ids.token_ids_size(), max_tokens_));
    if (count < 2) return score;
    v1::GenerateUnaryRequest unary;
    v1::GenerateRequest& request = *unary.mutable_request();
    request.set_model(model_);
    request.mutable_token_ids()->mutable_ids()->Assign(ids.token_ids().begin(),
                                                       ids.token_ids().begin() + count);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_new_tokens(1);
    request.mutable_output()->set_prompt_logprobs(true);
    request.mutable_output()->set_token_ids(false);
    ASSIGN_OR_RETURN(const v1::GenerateUnaryResponse response,
                     Patiently(&InferenceService::Stub::GenerateUnary, unary));
    const v1::GenerationStarted& started = response.started();
    if (started.prompt_logprobs_size() != count - 1) {
      return OfServer(
          absl::InternalError(absl::StrCat("the server gave ", started.prompt_logprobs_size(),
                                           " log-probabilities for ", count, " tokens")));
    }
    for (const v1::TokenLogprob& token : started.prompt_logprobs()) {
      score.loss_sum -= token.logprob();
    }
    score.tokens = count - 1;
    score.weights_version = started.weights_version();
    score.numerics_id = started.numerics_id();
    return score;
  }

  Session& session_;
  InferenceService::Stub& stub_;
  const std::string model_;
  const int64_t max_tokens_;
  const int threads_;
};

absl::Status AddScore(const Score& score, Totals& totals) {
  ++totals.texts;
  totals.cut += score.cut;
  if (score.tokens == 0) {
    ++totals.too_short;
    return absl::OkStatus();
  }
  if (totals.weights_version.empty()) {
    totals.weights_version = score.weights_version;
    totals.numerics_id = score.numerics_id;
  }
  if (totals.weights_version != score.weights_version) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model's weights changed during the evaluation, from ", totals.weights_version, " to ",
        score.weights_version, "; deploy a fixed step (mindforge model deploy --step) and repeat"));
  }
  if (totals.numerics_id != score.numerics_id) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model's replicas compute with other last digits: ", totals.numerics_id, " and ",
        score.numerics_id, "; serve it from one kind of device and build, and repeat"));
  }
  totals.tokens += score.tokens;
  totals.loss_sum += score.loss_sum;
  return absl::OkStatus();
}

// One line redrawn where the terminal takes that, a line now and then elsewhere.
class EvalProgress {
 public:
  explicit EvalProgress(Session& session) : session_(session) {}

  void Show(const Totals& totals) {
    const absl::Time now = absl::Now();
    const bool redraws = session_.err_terminal().redraws();
    if (totals.tokens == 0 || (!redraws && now < told_ + kNoteEvery)) return;
    told_ = now;
    const std::string line = absl::StrFormat(
        "%s texts, %s tokens, loss %.4f, %s tokens/s", Grouped(totals.texts),
        Grouped(totals.tokens), totals.loss(),
        Grouped(static_cast<int64_t>(static_cast<double>(totals.tokens) / Seconds())));
    if (redraws) {
      session_.err() << "\r\x1b[K" << FitWidth(line, session_.err_terminal().width) << std::flush;
      drawn_ = true;
    } else {
      session_.Note(line);
    }
  }
  void Finish() {
    if (drawn_) session_.err() << "\r\x1b[K" << std::flush;
    drawn_ = false;
  }
  double Seconds() const { return absl::ToDoubleSeconds(absl::Now() - start_); }

 private:
  Session& session_;
  const absl::Time start_ = absl::Now();
  absl::Time told_ = start_;
  bool drawn_ = false;
};

void PrintTotals(Session& session, const EvalFlags& flags, const Totals& totals, int64_t max_tokens,
                 double seconds) {
  const double perplexity = std::exp(totals.loss());
  if (session.structured()) {
    PrintJson(session, {{"model", flags.name},
                        {"weights_version", totals.weights_version},
                        {"numerics_id", totals.numerics_id},
                        {"texts", totals.texts},
                        {"cut_texts", totals.cut},
                        {"too_short_texts", totals.too_short},
                        {"max_seq_len", max_tokens},
                        {"tokens", totals.tokens},
                        {"loss", totals.loss()},
                        {"perplexity", perplexity},
                        {"seconds", seconds}});
    return;
  }
  std::string texts = Grouped(totals.texts);
  if (totals.cut > 0) {
    absl::StrAppend(&texts, ", ", Grouped(totals.cut), " cut to ", Grouped(max_tokens), " tokens");
  }
  if (totals.too_short > 0) {
    absl::StrAppend(&texts, ", ", Grouped(totals.too_short), " too short to predict anything");
  }
  KeyValues lines;
  lines.Add("Model", flags.name);
  lines.Add("Weights", totals.weights_version);
  lines.Add("Texts", texts);
  lines.Add("Tokens", Grouped(totals.tokens));
  lines.Add("Loss", absl::StrFormat("%.6f", totals.loss()));
  lines.Add("Perplexity", absl::StrFormat("%.4f", perplexity));
  lines.Print(session.out());
}

absl::Status CheckFlags(const EvalFlags& flags) {
  std::vector<FieldViolation> violations;
  const auto range = [&violations](const char* flag, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return;
    violations.push_back({flag, absl::StrCat(value, " is not from ", low, " to ", high)});
  };
  range("--max-seq-len", flags.max_seq_len.value_or(2), 2, int64_t{1} << 30);
  range("--limit", flags.limit, 0, int64_t{1} << 50);
  range("--parallel", flags.parallel, 1, kMaxParallel);
  return violations.empty() ? absl::OkStatus() : InvalidArgument(violations);
}

absl::StatusOr<ExitCode> Eval(Session& session, const EvalFlags& flags) {
  RETURN_IF_ERROR(CheckFlags(flags));
  ASSIGN_OR_RETURN(const bool skip, SkipsMalformed(flags.malformed_lines));
  ASSIGN_OR_RETURN(TextFeed feed, TextFeed::Open({.paths = flags.data, .skip_malformed = skip}));
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = InferenceService::NewStub(channel);
  v1::GetModelInfoRequest about;
  about.set_model(flags.name);
  ASSIGN_OR_RETURN(const v1::GetModelInfoResponse info,
                   Call(session, {.what = absl::StrCat("look up ", flags.name)}, *stub,
                        &InferenceService::Stub::GetModelInfo, about));
  // A prompt leaves room for one token.
  const int64_t room = info.max_context() - 1;
  const int64_t max_tokens = std::min(flags.max_seq_len.value_or(room), room);
  Scorer scorer(session, *stub, flags.name, max_tokens, flags.parallel);
  EvalProgress progress(session);
  Totals totals;
  while (true) {
    size_t count = kTextsPerThread * static_cast<size_t>(flags.parallel);
    if (flags.limit > 0) {
      count = std::min(count, static_cast<size_t>(flags.limit - totals.texts));
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> texts, NextTexts(feed, count));
    if (texts.empty()) break;
    absl::StatusOr<std::vector<Score>> scores = scorer.ScoreAll(texts);
    absl::Status status = scores.status();
    for (size_t i = 0; status.ok() && i < texts.size(); ++i) {
      status = AddScore((*scores)[i], totals);
    }
    if (!status.ok()) {
      progress.Finish();
      return status;
    }
    progress.Show(totals);
  }
  progress.Finish();
  feed.NoteSkipped(session);
  if (totals.tokens == 0) {
    return InvalidArgument("--data", "holds no text of two tokens or more: nothing to predict");
  }
  PrintTotals(session, flags, totals, max_tokens, progress.Seconds());
  return ExitCode::kOk;
}

}  // namespace

void AddModelEvalCommand(Registry& registry, CLI::App& model) {
  const auto flags = std::make_shared<EvalFlags>();
  CLI::App* command =
      AddCommand(registry, model, "eval", "Perplexity of a served model on texts of yours",
                 [flags](Session& session) { return Eval(session, *flags); });
  command->add_option("NAME", flags->name, "Name of the model")->required();
  command
      ->add_option("--data", flags->data,
                   ".jsonl, .jsonl.gz or .jsonl.zst with a field `text` a line, or a folder; "
                   "UTF-8; repeatable")
      ->required()
      ->type_name("FILE")
      ->allow_extra_args(false);
  command
      ->add_option("--max-seq-len", flags->max_seq_len,
                   "Cut texts to so many tokens (default: what the served context holds)")
      ->type_name("N");
  AddMalformedLines(*command, flags->malformed_lines);
  command->add_option("--limit", flags->limit, "The first N texts alone; 0: all (default)")
      ->type_name("N");
  command->add_option("--parallel", flags->parallel, "Requests at once (default 8)")
      ->type_name("N");
}

}  // namespace mindforge::cli
