#include "worker/data/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"

namespace mindforge {
namespace {

class PlainSource : public ByteSource {
 public:
  PlainSource(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  absl::StatusOr<size_t> Read(char* out, size_t bytes) override {
    ssize_t got = 0;
    do {
      got = ::read(fd_.get(), out, bytes);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return ErrnoStatus(errno, "cannot read", path_);
    bytes_read_ += got;
    return static_cast<size_t>(got);
  }

  int64_t stored_bytes_read() const override { return bytes_read_; }

 private:
  const std::string path_;
  const UniqueFd fd_;
  int64_t bytes_read_ = 0;
};

// Memory: the frame's window, of which zstd allows 128 MiB unless told otherwise.
class ZstdSource : public ByteSource {
 public:
  ZstdSource(std::string path, UniqueFd fd)
      : path_(path),
        stored_(std::move(path), std::move(fd)),
        stream_(ZSTD_createDStream()),
        stored_block_(ZSTD_DStreamInSize()) {
    MF_CHECK(stream_ != nullptr) << "no memory for a zstd stream";
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

  absl::StatusOr<size_t> Read(char* out, size_t bytes) override {
    ZSTD_outBuffer output{out, bytes, 0};
    while (output.pos == 0 && bytes > 0) {
      bool at_end = false;
      if (input_.pos == input_.size) {
        ASSIGN_OR_RETURN(const size_t got,
                         stored_.Read(stored_block_.data(), stored_block_.size()));
        input_ = {stored_block_.data(), got, 0};
        at_end = got == 0;
      }
      if (at_end && !inside_frame_) return 0;
      const size_t result = ZSTD_decompressStream(stream_, &output, &input_);
      if (ZSTD_isError(result) != 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            path_, " is no zstd file that can be read: ", ZSTD_getErrorName(result),
            "; make it again with `zstd FILE.jsonl` (without --ultra or --long above 27)"));
      }
      inside_frame_ = result != 0;
      if (at_end && inside_frame_ && output.pos == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_,
                         " ends in the middle of its zstd stream: it was cut off; copy it "
                         "again"));
      }
    }
    return output.pos;
  }

  int64_t stored_bytes_read() const override { return stored_.stored_bytes_read(); }

 private:
  const std::string path_;
  PlainSource stored_;
  ZSTD_DStream* const stream_;
  std::vector<char> stored_block_;
  ZSTD_inBuffer input_{nullptr, 0, 0};  // what of stored_block_ is not decompressed yet
  bool inside_frame_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> ByteSource::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    const absl::Status status = ErrnoStatus(errno, "cannot open", path);
    if (!absl::IsNotFound(status)) return status;
    return absl::NotFoundError(
        absl::StrCat("no dataset ", path, "; give a jsonl file, one object with a `text` a line"));
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is no regular file; give a jsonl file, one object with a `text` a line"));
  }
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  if (path.ends_with(".zst")) return std::make_unique<ZstdSource>(path, std::move(fd));
  return std::make_unique<PlainSource>(path, std::move(fd));
}

}  // namespace mindforge
