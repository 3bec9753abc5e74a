// The token cache's file: a header, the payload (ids of 2 or 4 bytes, then where each document
// begins), a digest of each block of the payload, and notes in words. It does not know what made
// the ids. The surprising choice: blocks are checked one by one when they are first used, so that
// opening a file of 100 GB costs no pass over it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/unique_fd.h"
#include "xxhash.h"

namespace mindforge {

struct TokenFileHeader {
  // Of the payload; the last one is shorter. What a use of one id reads at worst.
  static constexpr uint64_t kBlockBytes = uint64_t{64} << 10;

  char magic[8] = {'M', 'F', 'T', 'O', 'K', 'E', 'N', '2'};
  uint32_t id_bytes = 2;       // 2 or 4
  uint32_t skipped_lines = 0;  // malformed ones left out; the largest value: so many or more
  uint64_t documents = 0;
  uint64_t tokens = 0;
  uint64_t dataset_digest = 0;
  uint64_t tokenizer_digest = 0;
  uint64_t notes_bytes = 0;
  uint64_t tail_digest = 0;    // XXH3-64 of all that follows the payload
  uint64_t header_digest = 0;  // XXH3-64 of the fields above
};
static_assert(sizeof(TokenFileHeader) == 72);

uint64_t DigestOf(const TokenFileHeader& header);

// Bytes that the ids take, padded so that the offsets are aligned.
uint64_t IdsBytes(const TokenFileHeader& header);
uint64_t PayloadBytes(const TokenFileHeader& header);
uint64_t Blocks(const TokenFileHeader& header);

// Writes a token file beside its final name and publishes it there. Memory does not grow with the
// ids: offsets wait in a nameless file of their own. One thread at a time. Dropped before Finish,
// it leaves nothing. All errors are the folder's: never NOT_FOUND or ALREADY_EXISTS, since others
// that build the same file are no fault of the caller's.
class TokenFileWriter {
 public:
  static absl::StatusOr<std::unique_ptr<TokenFileWriter>> Create(const std::string& path,
                                                                 uint32_t id_bytes);
  ~TokenFileWriter();

  // The ids of some documents, one after the other, and the length of each.
  absl::Status Append(absl::Span<const int32_t> ids, absl::Span<const int64_t> lengths);

  struct Facts {
    uint64_t dataset_digest = 0;
    uint64_t tokenizer_digest = 0;
    int64_t skipped_lines = 0;
    std::string notes;
  };
  // Durable and in place on OK. Where another builder was first, its file stays and this one goes:
  // replacing it would pull the file from under those that have mapped it on other hosts.
  absl::Status Finish(const Facts& facts);

 private:
  TokenFileWriter(std::string path, std::string temporary, UniqueFd fd, UniqueFd offsets_fd,
                  uint32_t id_bytes);
  absl::Status WritePayload(const void* data, size_t bytes);
  absl::Status SpoolOffsets();
  absl::Status WriteOffsets();
  absl::Status WriteTail(std::string_view notes);
  absl::Status Publish();

  const std::string path_;
  const std::string temporary_;
  UniqueFd fd_;  // locked as long as its process writes, where the file system has locks
  UniqueFd offsets_fd_;
  TokenFileHeader header_;
  XXH3_state_t* const hash_;       // of the block under way
  uint64_t block_bytes_ = 0;       // so many of it are written
  std::vector<uint64_t> blocks_;   // digests of those before it
  std::vector<uint64_t> offsets_;  // not in offsets_fd_ yet
  std::vector<uint16_t> narrow_;
  bool finished_ = false;
};

// Removes what killed builders of `path` left behind: temporaries made under this very kernel whose
// lock nobody holds. Those of other hosts may be alive, whatever their locks say here.
void RemoveLeftovers(const std::string& path);

}  // namespace mindforge
