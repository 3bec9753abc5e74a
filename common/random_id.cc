#include "common/random_id.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "common/check.h"

namespace mindforge {
namespace {

void FillRandom(unsigned char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t got = getrandom(bytes, count, 0);
    if (got < 0 && errno == EINTR) continue;
    MF_CHECK(got > 0) << "getrandom: " << std::strerror(errno);
    bytes += got;
    count -= static_cast<size_t>(got);
  }
}

}  // namespace

std::string RandomId(int length) {
  static constexpr char kAlphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
  std::string id(static_cast<size_t>(length), '\0');
  FillRandom(reinterpret_cast<unsigned char*>(id.data()), id.size());
  for (size_t i = 0; i < id.size(); ++i) {
    const auto byte = static_cast<unsigned char>(id[i]);
    // A name that starts with a digit reads like a number.
    id[i] = i == 0 ? kAlphabet[byte % 26] : kAlphabet[byte % 32];
  }
  return id;
}

std::string RandomUuid() {
  unsigned char b[16];
  FillRandom(b, sizeof(b));
  b[6] = (b[6] & 0x0F) | 0x40;
  b[8] = (b[8] & 0x3F) | 0x80;
  char text[37];
  std::snprintf(text, sizeof(text),
                "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
                b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
                b[15]);
  return text;
}

}  // namespace mindforge
