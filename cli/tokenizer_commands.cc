// `mindforge tokenizer`: training, encoding and decoding, in this process and without a server.
#include <array>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/json_output.h"
#include "cli/local_work.h"
#include "cli/text_feed.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/data/text_guess.h"
#include "worker/tokenizer/bpe_trainer.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge::cli {
namespace {

constexpr size_t kMaxLineBytes = 64 << 20;
constexpr size_t kMaxInputBytes = 64 << 20;
constexpr std::array kTokenizerFiles = {"tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja"};

struct TrainFlags {
  std::vector<std::string> data;
  int64_t vocab_size = 6400;
  int64_t min_frequency = 0;
  std::string out;
  std::string malformed_lines = "refuse";
  bool overwrite = false;
};

// A tokenizer that is there is replaced only when asked: models are trained with it.
absl::Status CheckOut(const TrainFlags& flags) {
  for (const char* const name : kTokenizerFiles) {
    if (flags.overwrite || !PathExists(JoinPath(flags.out, name))) continue;
    return absl::AlreadyExistsError(absl::StrCat(
        JoinPath(flags.out, name),
        " exists, and models may be trained with it; choose another folder, or --overwrite"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> Train(Session& session, const TrainFlags& flags) {
  RETURN_IF_ERROR(CheckOut(flags));
  ASSIGN_OR_RETURN(const bool skip, SkipsMalformed(flags.malformed_lines));
  ASSIGN_OR_RETURN(const auto trainer, BpeTrainer::Create({.vocab_size = flags.vocab_size,
                                                           .min_frequency = flags.min_frequency}));
  ASSIGN_OR_RETURN(const auto work, LocalWork::Begin(session));
  const absl::Time start = absl::Now();
  int64_t texts = 0;
  ASSIGN_OR_RETURN(TextFeed feed, TextFeed::Open({.paths = flags.data,
                                                  .plain_text = true,
                                                  .skip_malformed = skip,
                                                  .limits = {.max_line_bytes = kMaxLineBytes}}));
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<std::string> text, feed.Next());
    if (!text.has_value()) break;
    trainer->AddText(*text);
    ++texts;
  }
  feed.NoteSkipped(session);
  if (texts == 0) return InvalidArgument("--data", "holds no text");
  ASSIGN_OR_RETURN(const TrainedTokenizer trained, trainer->Train());
  RETURN_IF_ERROR(WriteTokenizerFolder(trained, flags.out));
  if (trained.vocab_size < flags.vocab_size) {
    session.Note(absl::StrCat("warning: the texts hold pairs for ", trained.vocab_size, " of ",
                              flags.vocab_size, " tokens; the vocabulary is that small"));
  }
  session.Note(absl::StrCat(Grouped(texts), " texts in ", ShortDuration(absl::Now() - start)));
  const nlohmann::ordered_json result = {
      {"path", flags.out}, {"vocab_size", trained.vocab_size}, {"texts", texts}};
  if (session.structured()) {
    PrintJson(session, result);
  } else {
    session.out() << flags.out << "\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<std::string> ReadInput() {
  std::string text;
  char buffer[1 << 16];
  while (std::cin.read(buffer, sizeof(buffer)) || std::cin.gcount() > 0) {
    text.append(buffer, std::cin.gcount());
    if (text.size() > kMaxInputBytes) return InvalidArgument("stdin", "is longer than 64 MiB");
  }
  return text;
}

struct CodecFlags {
  std::string tokenizer;
  std::optional<std::string> text;
  std::vector<int32_t> ids;
  bool skip_special = false;
};

absl::StatusOr<ExitCode> Encode(Session& session, const CodecFlags& flags) {
  ASSIGN_OR_RETURN(const auto work, LocalWork::Begin(session));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(flags.tokenizer));
  std::string text;
  if (flags.text.has_value()) {
    text = *flags.text;
  } else {
    ASSIGN_OR_RETURN(text, ReadInput());
  }
  // Encode would replace it, and the ids would be another text's.
  if (const std::optional<size_t> bad = FirstNonUtf8(text); bad.has_value()) {
    return InvalidArgument(flags.text.has_value() ? "TEXT" : "stdin",
                           NotUtf8InWords(text, *bad, GuessFormat(text.substr(0, kGuessBytes))));
  }
  const std::vector<int32_t> ids = tokenizer->Encode(text);
  if (session.structured()) {
    PrintJson(session, {{"token_ids", ids}});
    return ExitCode::kOk;
  }
  for (size_t i = 0; i < ids.size(); ++i) session.out() << (i == 0 ? "" : " ") << ids[i];
  session.out() << "\n";
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Decode(Session& session, const CodecFlags& flags) {
  ASSIGN_OR_RETURN(const auto work, LocalWork::Begin(session));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(flags.tokenizer));
  std::vector<int32_t> ids = flags.ids;
  if (ids.empty()) {
    ASSIGN_OR_RETURN(const std::string input, ReadInput());
    for (const absl::string_view word :
         absl::StrSplit(input, absl::ByAnyChar(" \t\r\n,[]"), absl::SkipEmpty())) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(word, &id)) {
        return InvalidArgument("stdin", absl::StrCat("'", word, "' is no token id"));
      }
      ids.push_back(id);
    }
  }
  for (const int32_t id : ids) {
    if (id >= 0 && id < tokenizer->vocab_size()) continue;
    return InvalidArgument("token id", absl::StrCat(id, " is not in the vocabulary (0 to ",
                                                    tokenizer->vocab_size() - 1, ")"));
  }
  const std::string text = tokenizer->Decode(ids, {.skip_special_tokens = flags.skip_special});
  if (session.structured()) {
    PrintJson(session, {{"text", text}});
    return ExitCode::kOk;
  }
  const bool terminal = session.out_terminal().is_terminal;
  session.out() << (terminal ? EscapeControls(text) : text) << (terminal ? "\n" : "");
  return ExitCode::kOk;
}

}  // namespace

void AddTokenizerCommands(Registry& registry) {
  CLI::App* group = AddGroup(registry, "tokenizer", "Train and use tokenizers (no server needed)");
  const auto train_flags = std::make_shared<TrainFlags>();
  CLI::App* train =
      AddCommand(registry, *group, "train", "Train a byte-level BPE vocabulary",
                 [train_flags](Session& session) { return Train(session, *train_flags); });
  train
      ->add_option("--data", train_flags->data,
                   ".jsonl, .jsonl.gz or .jsonl.zst with a field `text` a line, a folder of them, "
                   "or plain text a line; UTF-8; repeatable")
      ->required()
      ->type_name("FILE")
      ->allow_extra_args(false);
  train
      ->add_option("--vocab-size", train_flags->vocab_size,
                   "Tokens, special ones and the 256 bytes included")
      ->required()
      ->type_name("N");
  AddMalformedLines(*train, train_flags->malformed_lines);
  train->add_option("--min-frequency", train_flags->min_frequency, "Fewest times a pair is seen")
      ->type_name("N");
  train->add_option("--out", train_flags->out, "Folder for tokenizer.json")
      ->required()
      ->type_name("DIR");
  train->add_flag("--overwrite", train_flags->overwrite, "Replace a tokenizer that is there");

  const auto codec = std::make_shared<CodecFlags>();
  CLI::App* encode = AddCommand(registry, *group, "encode", "Text to token ids",
                                [codec](Session& session) { return Encode(session, *codec); });
  encode->add_option("--tokenizer", codec->tokenizer, "Folder with tokenizer.json, or that file")
      ->required()
      ->type_name("DIR");
  encode->add_option("TEXT", codec->text, "The text; without it stdin is read");
  CLI::App* decode = AddCommand(registry, *group, "decode", "Token ids to text",
                                [codec](Session& session) { return Decode(session, *codec); });
  decode->add_option("--tokenizer", codec->tokenizer, "Folder with tokenizer.json, or that file")
      ->required()
      ->type_name("DIR");
  decode->add_flag("--skip-special", codec->skip_special, "Leave special tokens out");
  decode->add_option("ID", codec->ids, "Token ids; without any stdin is read");
}

}  // namespace mindforge::cli
