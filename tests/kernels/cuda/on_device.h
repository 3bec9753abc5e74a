// Memory of the device for tests of kernels, and comparisons with the CPU's column.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "worker/kernels/train_kernels.h"

namespace mindforge {

// A fixture that skips where there is no device.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "there is no CUDA device";
    }
  }
  void TearDown() override {
    if (IsSkipped()) return;
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  }
};

// An array on the device.
template <typename E>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<E>& host) : OnDevice(static_cast<int64_t>(host.size())) {
    EXPECT_EQ(cudaMemcpy(data_, host.data(), Bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  // Poisoned: NaN, or -1.
  explicit OnDevice(int64_t size) : size_(static_cast<size_t>(size)) {
    EXPECT_EQ(cudaMalloc(&data_, std::max<size_t>(Bytes(), 1)), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0xff, Bytes()), cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  E* get() const { return static_cast<E*>(data_); }
  // What is there when the work enqueued so far is done.
  std::vector<E> Host() const {
    std::vector<E> out(size_);
    EXPECT_EQ(cudaMemcpy(out.data(), data_, Bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return out;
  }

 private:
  size_t Bytes() const { return size_ * sizeof(E); }

  size_t size_;
  void* data_ = nullptr;
};

inline float Widen(float x) { return x; }
inline float Widen(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}
inline float Widen(Half x) { return __half2float(__half(__half_raw{x.bits})); }
inline void Round(float value, float& out) { out = value; }
inline void Round(float value, Bf16& out) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  out.bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline void Round(float value, Half& out) {
  out.bits = static_cast<__half_raw>(__float2half_rn(value)).x;
}

template <typename T>
std::vector<T> Rounded(const std::vector<float>& x) {
  std::vector<T> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) Round(x[i], out[i]);
  return out;
}
template <typename T>
std::vector<float> Widened(const std::vector<T>& x) {
  std::vector<float> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = Widen(x[i]);
  return out;
}

// Normal numbers that T can hold, as floats: the CPU's float column then reads what T's reads.
template <typename T = float>
std::vector<float> Random(int64_t size, uint64_t seed, float scale = 1) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(size));
  for (float& x : out) x = normal(generator);
  return Widened(Rounded<T>(out));
}
// As T, on the device.
template <typename T>
OnDevice<T> Put(const std::vector<float>& x) {
  return OnDevice<T>(Rounded<T>(x));
}

template <typename E>
bool SameBits(const std::vector<E>& a, const std::vector<E>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(E)) == 0;
}

// The largest error, relative to the largest value.
inline void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected,
                        double limit = 1e-5) {
  ASSERT_EQ(actual.size(), expected.size());
  double error = 0, largest = 1e-30;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(double{actual[i]} - double{expected[i]});
    ASSERT_FALSE(std::isnan(difference)) << "at " << i << ": " << actual[i];
    error = std::max(error, difference);
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  EXPECT_LE(error, limit * largest);
}

// ‖error‖ / ‖expected‖ for the rounded types, as ExpectClose for float.
template <typename T>
void ExpectRounded(const std::vector<T>& stored, const std::vector<float>& expected,
                   double limit = 3e-3) {
  const std::vector<float> actual = Widened(stored);
  if (std::is_same_v<T, float>) return ExpectClose(actual, expected);
  ASSERT_EQ(actual.size(), expected.size());
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = double{actual[i]} - double{expected[i]};
    ASSERT_FALSE(std::isnan(difference)) << "at " << i << ": " << actual[i];
    error += difference * difference;
    norm += double{expected[i]} * double{expected[i]};
  }
  EXPECT_LE(std::sqrt(error), limit * std::sqrt(norm));
}

using StorageTypes = ::testing::Types<float, Bf16, Half>;

}  // namespace mindforge
