// Compressed test data.
#pragma once

#include <zlib.h>

#include <string>

#include "gtest/gtest.h"

namespace mindforge {

// `window` as deflateInit2 takes it: it says whether and which header there is.
inline std::string Deflated(const std::string& content, int window, int level = 6) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, level, Z_DEFLATED, window, 9, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, content.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string Gzip(const std::string& content) { return Deflated(content, MAX_WBITS + 16); }

}  // namespace mindforge
