#include "cli/errors.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"

namespace mindforge::cli {
namespace {

std::string Remedy(const Session& session, const absl::Status& status) {
  if (absl::IsDeadlineExceeded(status)) return "Give a longer --timeout, or none.";
  if (!IsOfServer(status)) return "";  // its message is all there is to say
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return absl::StrCat("Is mindforge-coordinator running at ", session.options.server,
                          "? Set --server or MINDFORGE_SERVER; `mindforge doctor` looks closer.");
    case absl::StatusCode::kUnauthenticated:
      return "Give the server's token with --token-file or MINDFORGE_TOKEN_FILE.";
    case absl::StatusCode::kPermissionDenied:
      return "Ask whoever runs the server for a token that may do this.";
    case absl::StatusCode::kResourceExhausted:
      return "Try again later, or with less at once.";
    case absl::StatusCode::kUnimplemented:
      return absl::StrCat("The server at ", session.options.server,
                          " does not offer this; check --server and the server's version.");
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return "The server's log says more.";
    default:
      return "";
  }
}

// A violation without a field speaks for itself: "and 12 more".
std::string LineOf(const FieldViolation& violation) {
  return violation.field.empty() ? violation.description
                                 : absl::StrCat(violation.field, ": ", violation.description);
}

}  // namespace

void PrintError(Session& session, const absl::Status& status) {
  const std::vector<FieldViolation> violations = GetViolations(status);
  std::ostream& err = session.err();
  std::string message(status.message());
  if (message.empty()) message = absl::StatusCodeToString(status.code());
  // The message of a list of violations repeats them; its first line is enough of it.
  if (violations.size() > 1) {
    // The last may stand for those that a reply had no room for.
    message = absl::StrCat(violations.back().field.empty() ? "at least " : "", violations.size(),
                           " problems:");
  }
  if (violations.size() == 1) message = LineOf(violations[0]);
  err << "mindforge: " << Styled(session.err_terminal(), Style::kBad, "error") << ": "
      << EscapeControls(message) << "\n";
  if (violations.size() > 1) {
    for (const FieldViolation& violation : violations) {
      err << "  " << EscapeControls(LineOf(violation)) << "\n";
    }
  }
  if (const std::string remedy = Remedy(session, status); !remedy.empty()) {
    err << "  " << remedy << "\n";
  }
  err << std::flush;
}

}  // namespace mindforge::cli
