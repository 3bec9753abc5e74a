#include "worker/tokenizer/byte_alphabet.h"

#include "worker/tokenizer/utf8.h"

namespace mindforge {
namespace {

constexpr int kAlphabetEnd = 0x100 + 68;  // 188 bytes are printable, 68 are not

constexpr std::array<uint16_t, 256> MakeAlphabet() {
  std::array<uint16_t, 256> alphabet{};
  uint16_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    alphabet[b] = printable ? static_cast<uint16_t>(b) : next++;
  }
  return alphabet;
}

constexpr std::array<uint16_t, 256> kAlphabet = MakeAlphabet();

constexpr std::array<int16_t, kAlphabetEnd> MakeInverse() {
  std::array<int16_t, kAlphabetEnd> bytes{};
  for (auto& b : bytes) b = -1;
  for (int b = 0; b < 256; ++b) bytes[kAlphabet[b]] = static_cast<int16_t>(b);
  return bytes;
}

constexpr std::array<int16_t, kAlphabetEnd> kByteOf = MakeInverse();

}  // namespace

const std::array<uint16_t, 256>& ByteAlphabet() { return kAlphabet; }

std::string SpellBytes(std::string_view bytes) {
  std::string token;
  for (const char c : bytes) AppendUtf8(kAlphabet[static_cast<unsigned char>(c)], &token);
  return token;
}

std::string UnspellToken(std::string_view token) {
  if (!IsValidUtf8(token)) return std::string(token);
  std::string bytes;
  const auto* p = reinterpret_cast<const unsigned char*>(token.data());
  const auto* const end = p + token.size();
  while (p < end) {
    const uint32_t c = DecodeUtf8(p);
    if (c >= kAlphabetEnd || kByteOf[c] < 0) return std::string(token);
    bytes.push_back(static_cast<char>(kByteOf[c]));
  }
  return bytes;
}

}  // namespace mindforge
