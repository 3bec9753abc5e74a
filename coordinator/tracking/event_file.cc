#include "coordinator/tracking/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/durable_file.h"
#include "common/unique_fd.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"

namespace mindforge {
namespace {

using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;
using Wire = google::protobuf::internal::WireFormatLite;

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto, tensor.proto.
constexpr int kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3, kEventSummary = 5;
constexpr int kSummaryValue = 1;
constexpr int kValueTag = 1, kValueSimple = 2, kValueNode = 7, kValueTensor = 8, kValueMetadata = 9;
constexpr int kMetadataPlugin = 1, kMetadataClass = 4;
constexpr int kPluginName = 1;
constexpr int kTensorType = 1, kTensorShape = 2, kTensorStrings = 8;
constexpr int kShapeDimension = 2, kDimensionSize = 1;
constexpr int kDataClassTensor = 2, kTypeString = 7;

// A message under construction.
class Message {
 public:
  Message& Bytes(int field, std::string_view value) {
    return Append([&](CodedOutputStream& out) {
      out.WriteTag(Wire::MakeTag(field, Wire::WIRETYPE_LENGTH_DELIMITED));
      out.WriteVarint32(static_cast<uint32_t>(value.size()));
      out.WriteRaw(value.data(), static_cast<int>(value.size()));
    });
  }
  Message& Add(int field, const Message& value) { return Bytes(field, value.bytes_); }
  Message& Int(int field, int64_t value) {
    return Append([&](CodedOutputStream& out) {
      out.WriteTag(Wire::MakeTag(field, Wire::WIRETYPE_VARINT));
      out.WriteVarint64(static_cast<uint64_t>(value));
    });
  }
  Message& Double(int field, double value) {
    return Append([&](CodedOutputStream& out) {
      out.WriteTag(Wire::MakeTag(field, Wire::WIRETYPE_FIXED64));
      out.WriteLittleEndian64(Wire::EncodeDouble(value));
    });
  }
  Message& Float(int field, float value) {
    return Append([&](CodedOutputStream& out) {
      out.WriteTag(Wire::MakeTag(field, Wire::WIRETYPE_FIXED32));
      out.WriteLittleEndian32(Wire::EncodeFloat(value));
    });
  }
  const std::string& bytes() const { return bytes_; }

 private:
  template <typename Write>
  Message& Append(Write write) {
    StringOutputStream stream(&bytes_);
    CodedOutputStream out(&stream);
    write(out);
    return *this;
  }
  std::string bytes_;
};

// A frame: length, its masked CRC, the bytes, their masked CRC; all little-endian.
constexpr size_t kFrameHead = sizeof(uint64_t) + sizeof(uint32_t);
constexpr size_t kFrameTail = sizeof(uint32_t);
constexpr uint64_t kMaxEventBytes = 1 << 20;

std::string Frame(const Message& event) {
  const std::string& bytes = event.bytes();
  const uint64_t size = bytes.size();
  std::string frame(sizeof(size), '\0');
  std::memcpy(frame.data(), &size, sizeof(size));
  const auto append_crc = [&frame](uint32_t crc) {
    frame.append(reinterpret_cast<const char*>(&crc), sizeof(crc));
  };
  append_crc(MaskedCrc32c(std::string_view(frame).substr(0, sizeof(size))));
  frame += bytes;
  append_crc(MaskedCrc32c(bytes));
  return frame;
}

Message BeginEvent(absl::Time at, int64_t step) {
  Message event;
  event.Double(kEventWallTime, absl::ToDoubleSeconds(at - absl::UnixEpoch()));
  event.Int(kEventStep, step);
  return event;
}

uint32_t CrcAt(std::string_view text, size_t at) {
  uint32_t crc = 0;
  std::memcpy(&crc, text.data() + at, sizeof(crc));
  return crc;
}

// The event at the front; empty: no whole, sound frame is there.
std::string_view FrontEvent(std::string_view text) {
  if (text.size() < kFrameHead + kFrameTail) return {};
  uint64_t size = 0;
  std::memcpy(&size, text.data(), sizeof(size));
  if (MaskedCrc32c(text.substr(0, sizeof(size))) != CrcAt(text, sizeof(size))) return {};
  if (size > kMaxEventBytes || text.size() < kFrameHead + size + kFrameTail) return {};
  const std::string_view event = text.substr(kFrameHead, size);
  return MaskedCrc32c(event) == CrcAt(text, kFrameHead + size) ? event : std::string_view();
}

// Calls `take` with each field's number and wire type; it reads the value or returns false to have
// it skipped.
template <typename Take>
void ForEachField(std::string_view message, Take take) {
  CodedInputStream in(reinterpret_cast<const uint8_t*>(message.data()),
                      static_cast<int>(message.size()));
  while (const uint32_t tag = in.ReadTag()) {
    if (!take(in, Wire::GetTagFieldNumber(tag)) && !Wire::SkipField(&in, tag)) return;
  }
}

bool ReadBytes(CodedInputStream& in, std::string* out) {
  uint32_t size = 0;
  return in.ReadVarint32(&size) && in.ReadString(out, static_cast<int>(size));
}

void Take(std::string_view event, EventFileEnd* end) {
  uint64_t step = 0;
  std::string summary;
  ForEachField(event, [&](CodedInputStream& in, int field) {
    if (field == kEventStep) return in.ReadVarint64(&step);
    return field == kEventSummary && ReadBytes(in, &summary);
  });
  std::string value, node;
  ForEachField(summary, [&](CodedInputStream& in, int field) {
    return field == kSummaryValue && ReadBytes(in, &value);
  });
  ForEachField(value, [&](CodedInputStream& in, int field) {
    return field == kValueNode && ReadBytes(in, &node);
  });
  int64_t number = 0;
  if (absl::SimpleAtoi(node, &number)) {
    end->last_number = std::max(end->last_number, number);
  } else if (!value.empty()) {
    end->last_step = std::max(end->last_step, static_cast<int64_t>(step));
  }
}

}  // namespace

std::string EncodeFileVersion(absl::Time at) {
  Message event = BeginEvent(at, 0);
  return Frame(event.Bytes(kEventFileVersion, "brain.Event:2"));
}

std::string EncodeScalars(absl::Time at, int64_t step,
                          const std::vector<std::pair<std::string_view, double>>& values) {
  Message summary;
  for (const auto& [tag, value] : values) {
    Message scalar;
    scalar.Bytes(kValueTag, tag).Float(kValueSimple, static_cast<float>(value));
    summary.Add(kSummaryValue, scalar);
  }
  return Frame(BeginEvent(at, step).Add(kEventSummary, summary));
}

std::string EncodeText(absl::Time at, int64_t step, std::string_view tag, std::string_view text,
                       int64_t number) {
  Message plugin, metadata, size, shape, tensor, value, summary;
  plugin.Bytes(kPluginName, "text");
  metadata.Add(kMetadataPlugin, plugin).Int(kMetadataClass, kDataClassTensor);
  shape.Add(kShapeDimension, size.Int(kDimensionSize, 1));
  tensor.Int(kTensorType, kTypeString).Add(kTensorShape, shape).Bytes(kTensorStrings, text);
  value.Bytes(kValueTag, tag)
      .Bytes(kValueNode, absl::StrCat(number))
      .Add(kValueTensor, tensor)
      .Add(kValueMetadata, metadata);
  return Frame(BeginEvent(at, step).Add(kEventSummary, summary.Add(kSummaryValue, value)));
}

absl::StatusOr<EventFileEnd> ScanEventFile(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  EventFileEnd end;
  std::string text;
  size_t done = 0;  // of `text`
  std::string buffer(size_t{1} << 20, '\0');
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read", path);
    if (got == 0) return end;
    text.erase(0, done);
    done = 0;
    text.append(buffer, 0, static_cast<size_t>(got));
    const std::string_view all = text;
    for (std::string_view event = FrontEvent(all); !event.empty();
         event = FrontEvent(all.substr(done))) {
      Take(event, &end);
      done += kFrameHead + event.size() + kFrameTail;
      end.bytes += static_cast<int64_t>(kFrameHead + event.size() + kFrameTail);
    }
    // What is not whole after so much is damage, not the edge of the buffer.
    if (text.size() - done > kFrameHead + kMaxEventBytes + kFrameTail) return end;
  }
}

}  // namespace mindforge
