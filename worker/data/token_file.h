// The token cache's file: a header, ids of 2 or 4 bytes, then where each document begins. It does
// not know what made the ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/unique_fd.h"
#include "xxhash.h"

namespace mindforge {

struct TokenFileHeader {
  char magic[8] = {'M', 'F', 'T', 'O', 'K', 'E', 'N', '1'};
  uint32_t id_bytes = 2;       // 2 or 4
  uint32_t skipped_lines = 0;  // malformed ones left out; the largest value: so many or more
  uint64_t documents = 0;
  uint64_t tokens = 0;
  uint64_t dataset_digest = 0;
  uint64_t tokenizer_digest = 0;
  uint64_t payload_digest = 0;  // XXH3-64 of all that follows the header
  uint64_t header_digest = 0;   // XXH3-64 of the fields above
};
static_assert(sizeof(TokenFileHeader) == 64);

uint64_t DigestOf(const TokenFileHeader& header);

// Bytes that the ids take, padded so that the offsets are aligned.
uint64_t IdsBytes(const TokenFileHeader& header);

// Writes a token file beside its final name and renames it there. Memory does not grow with the
// file: offsets wait in a nameless file of their own. One thread at a time. Dropped before Finish,
// it leaves nothing.
class TokenFileWriter {
 public:
  static absl::StatusOr<std::unique_ptr<TokenFileWriter>> Create(const std::string& path,
                                                                 uint32_t id_bytes);
  ~TokenFileWriter();

  // The ids of some documents, one after the other, and the length of each.
  absl::Status Append(absl::Span<const int32_t> ids, absl::Span<const int64_t> lengths);
  // Durable and in place on OK.
  absl::Status Finish(uint64_t dataset_digest, uint64_t tokenizer_digest, int64_t skipped_lines);

 private:
  TokenFileWriter(std::string path, std::string temporary, UniqueFd fd, UniqueFd offsets_fd,
                  uint32_t id_bytes);
  absl::Status WritePayload(const void* data, size_t bytes);
  absl::Status SpoolOffsets();
  absl::Status WriteOffsets();

  const std::string path_;
  const std::string temporary_;
  UniqueFd fd_;
  UniqueFd offsets_fd_;
  TokenFileHeader header_;
  XXH3_state_t* const hash_;
  std::vector<uint64_t> offsets_;  // not in offsets_fd_ yet
  std::vector<uint16_t> narrow_;
  bool finished_ = false;
};

}  // namespace mindforge
