#include "worker/data/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
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

absl::Status CutOff(const std::string& path, std::string_view kind) {
  return absl::InvalidArgumentError(absl::StrCat(path, " ends in the middle of its ",
                                                 std::string(kind),
                                                 " stream: it was cut off; copy it again"));
}

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
      if (at_end && stored_.stored_bytes_read() == 0) return CutOff(path_, "zstd");
      if (at_end && !inside_frame_) return 0;
      const size_t result = ZSTD_decompressStream(stream_, &output, &input_);
      if (ZSTD_isError(result) != 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            path_, " is no zstd file that can be read: ", ZSTD_getErrorName(result),
            "; make it again with `zstd FILE.jsonl` (without --ultra or --long above 27)"));
      }
      inside_frame_ = result != 0;
      if (at_end && inside_frame_ && output.pos == 0) return CutOff(path_, "zstd");
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

// Members one after the other, as gzip and bgzip write them. Zeros between or behind them are a
// tape's padding, as for gzip itself.
class GzipSource : public ByteSource {
 public:
  GzipSource(std::string path, UniqueFd fd)
      : path_(path), stored_(std::move(path), std::move(fd)), stored_block_(kBlockBytes) {
    constexpr int kGzipAlone = 16;
    MF_CHECK_EQ(inflateInit2(&stream_, MAX_WBITS + kGzipAlone), Z_OK);
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  absl::StatusOr<size_t> Read(char* out, size_t bytes) override {
    bytes = std::min(bytes, size_t{1} << 30);  // zlib counts in 32 bits
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(bytes);
    while (stream_.avail_out == bytes && bytes > 0) {
      if (stream_.avail_in == 0) {
        ASSIGN_OR_RETURN(const size_t got,
                         stored_.Read(stored_block_.data(), stored_block_.size()));
        stream_.next_in = reinterpret_cast<Bytef*>(stored_block_.data());
        stream_.avail_in = static_cast<uInt>(got);
        if (got == 0 && (inside_member_ || stored_.stored_bytes_read() == 0)) {
          return CutOff(path_, "gzip");
        }
        if (got == 0) return 0;
      }
      if (!inside_member_ && members_ > 0 && SkipZeros()) continue;
      RETURN_IF_ERROR(Inflate());
    }
    return bytes - stream_.avail_out;
  }

  int64_t stored_bytes_read() const override { return stored_.stored_bytes_read(); }

 private:
  static constexpr size_t kBlockBytes = size_t{128} << 10;

  // True when nothing is left of the block.
  bool SkipZeros() {
    while (stream_.avail_in > 0 && *stream_.next_in == 0) {
      ++stream_.next_in;
      --stream_.avail_in;
    }
    return stream_.avail_in == 0;
  }

  absl::Status Inflate() {
    inside_member_ = true;
    const int result = inflate(&stream_, Z_NO_FLUSH);
    if (result == Z_STREAM_END) {
      inside_member_ = false;
      ++members_;
      MF_CHECK_EQ(inflateReset(&stream_), Z_OK);
      return absl::OkStatus();
    }
    if (result == Z_OK) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        path_, " is no gzip file that can be read: ",
        stream_.msg != nullptr ? stream_.msg : zError(result),
        members_ > 0 ? absl::StrCat(" behind member ", members_) : "", "; copy or make it again"));
  }

  const std::string path_;
  PlainSource stored_;
  z_stream stream_{};
  std::vector<char> stored_block_;
  int64_t members_ = 0;  // complete ones
  bool inside_member_ = false;
};

enum class Compression { kNone, kGzip, kZstd };

// By content, else by name, so that a damaged or cut file is not taken for text.
absl::StatusOr<Compression> CompressionOf(const std::string& path, int fd) {
  unsigned char head[4] = {};
  ssize_t got = 0;
  do {
    got = ::pread(fd, head, sizeof(head), 0);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return ErrnoStatus(errno, "cannot read", path);
  constexpr unsigned char kZstd[] = {0x28, 0xB5, 0x2F, 0xFD};
  constexpr unsigned char kSkippable[] = {0x2A, 0x4D, 0x18};  // behind 0x50 to 0x5F
  if (got >= 2 && head[0] == 0x1F && head[1] == 0x8B) return Compression::kGzip;
  if (got == 4 && std::memcmp(head, kZstd, 4) == 0) return Compression::kZstd;
  if (got == 4 && (head[0] & 0xF0) == 0x50 && std::memcmp(head + 1, kSkippable, 3) == 0) {
    return Compression::kZstd;
  }
  if (path.ends_with(".gz")) return Compression::kGzip;
  if (path.ends_with(".zst")) return Compression::kZstd;
  return Compression::kNone;
}

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
  ASSIGN_OR_RETURN(const Compression compression, CompressionOf(path, fd.get()));
  switch (compression) {
    case Compression::kNone:
      return std::make_unique<PlainSource>(path, std::move(fd));
    case Compression::kGzip:
      return std::make_unique<GzipSource>(path, std::move(fd));
    case Compression::kZstd:
      return std::make_unique<ZstdSource>(path, std::move(fd));
  }
  return absl::InternalError("no such compression");
}

}  // namespace mindforge
