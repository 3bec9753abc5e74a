// CRC-32C (Castagnoli), for records in files that are appended to.
#pragma once

#include <cstdint>
#include <string_view>

namespace mindforge {

uint32_t Crc32c(std::string_view bytes);

// As TFRecord files store it: a checksum over data that holds checksums is weak, so it is rotated
// and moved.
uint32_t MaskedCrc32c(std::string_view bytes);

}  // namespace mindforge
