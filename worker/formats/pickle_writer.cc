#include <bit>
#include <limits>

#include "worker/formats/pickle.h"

namespace mindforge {
namespace {

void PutLittleEndian(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) *out += static_cast<char>(value >> (8 * i));
}

}  // namespace

PickleWriter::PickleWriter() : bytes_("\x80\x02") {}

void PickleWriter::Int(int64_t value) {
  const bool short_enough =
      value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max();
  const int bytes = short_enough ? 4 : 8;
  if (short_enough) {
    bytes_ += 'J';
  } else {
    bytes_ += '\x8a';
    bytes_ += static_cast<char>(bytes);
  }
  PutLittleEndian(static_cast<uint64_t>(value), bytes, &bytes_);
}

void PickleWriter::Float(double value) {
  const auto bits = std::bit_cast<uint64_t>(value);
  bytes_ += 'G';
  for (int shift = 56; shift >= 0; shift -= 8) bytes_ += static_cast<char>(bits >> shift);
}

void PickleWriter::Text(std::string_view text) {
  bytes_ += 'X';
  PutLittleEndian(text.size(), 4, &bytes_);
  bytes_ += text;
}

void PickleWriter::Global(std::string_view module, std::string_view name) {
  bytes_ += 'c';
  bytes_ += module;
  bytes_ += '\n';
  bytes_ += name;
  bytes_ += '\n';
}

void PickleWriter::BeginOrderedDict() {
  Global("collections", "OrderedDict");
  bytes_ += ")R(";
}

}  // namespace mindforge
