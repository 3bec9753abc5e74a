#include "worker/data/cache_place.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>

#include <cerrno>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/error_details.h"

namespace mindforge {

absl::StatusOr<UniqueFd> TakeCacheLock(const std::string& path, const ProgressFunction& progress) {
  constexpr int kPollMilliseconds = 100;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot create", path);
  ProgressMeter waiting(progress, TokenCacheProgress::Phase::kWaiting);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return UniqueFd();
    waiting.Advance(0);
    ::poll(nullptr, 0, kPollMilliseconds);
  }
  return fd;
}

absl::Status OfCacheDir(const absl::Status& status) {
  const char* const remedy =
      absl::IsResourceExhausted(status)
          ? "; make room there, or name another folder that all workers see as data.cache_dir"
          : "; token caches need a folder that this worker may write: name one that all workers "
            "see "
            "as data.cache_dir";
  const absl::Status refused =
      InvalidArgument("data.cache_dir", absl::StrCat(std::string(status.message()), remedy));
  switch (status.code()) {
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
      return refused;
    default:
      break;
  }
  absl::Status named(status.code(), refused.message());
  refused.ForEachPayload([&named](absl::string_view url, const absl::Cord& payload) {
    named.SetPayload(url, payload);
  });
  return named;
}

}  // namespace mindforge
