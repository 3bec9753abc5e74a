// MF_CHECK: programmer errors end the process with a message and the place.
//
//   MF_CHECK(rank < world_size) << "rank " << rank << " of " << world_size;
//   MF_CHECK_EQ(a, b);
//   MF_CHECK_OK(store.Close());
//
// Checks are in every build: we run what we tested. For what a user or a machine can cause, return
// an absl::Status instead.
#pragma once

#include <memory>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>

#include "absl/base/optimization.h"
#include "common/status_macros.h"

namespace mindforge::internal {

// Gathers the message of a failed check; its destructor logs and aborts.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, std::string_view what);
  [[noreturn]] ~CheckFailure();
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;

  std::ostream& stream() { return stream_; }

 private:
  const char* const file_;
  const int line_;
  std::ostringstream stream_;
};

// Gives `condition ? (void)0 : Voidify() & stream << a << b` one type.
struct Voidify {
  void operator&(std::ostream&) {}
};

template <typename T>
void PrintValue(std::ostream& out, const T& value) {
  if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(unprintable)";
  }
}

template <typename A, typename B, typename Op>
std::unique_ptr<std::string> CheckOp(const A& a, const B& b, Op holds, const char* text) {
  if (ABSL_PREDICT_TRUE(holds(a, b))) return nullptr;
  std::ostringstream out;
  out << text << " (";
  PrintValue(out, a);
  out << " vs. ";
  PrintValue(out, b);
  out << ")";
  return std::make_unique<std::string>(out.str());
}

// Null when OK.
std::unique_ptr<std::string> CheckOk(const absl::Status& status, const char* text);

}  // namespace mindforge::internal

#define MF_CHECK(condition)            \
  ABSL_PREDICT_TRUE(condition)         \
  ? static_cast<void>(0)               \
  : ::mindforge::internal::Voidify() & \
          ::mindforge::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define MF_CHECK_OP_IMPL(a, b, op)                                                          \
  while (const auto mf_failed = ::mindforge::internal::CheckOp(                             \
             a, b, [](const auto& x, const auto& y) { return x op y; }, #a " " #op " " #b)) \
  ::mindforge::internal::CheckFailure(__FILE__, __LINE__, *mf_failed).stream()

#define MF_CHECK_EQ(a, b) MF_CHECK_OP_IMPL(a, b, ==)
#define MF_CHECK_NE(a, b) MF_CHECK_OP_IMPL(a, b, !=)
#define MF_CHECK_LT(a, b) MF_CHECK_OP_IMPL(a, b, <)
#define MF_CHECK_LE(a, b) MF_CHECK_OP_IMPL(a, b, <=)
#define MF_CHECK_GT(a, b) MF_CHECK_OP_IMPL(a, b, >)
#define MF_CHECK_GE(a, b) MF_CHECK_OP_IMPL(a, b, >=)

#define MF_CHECK_OK(...)                                                  \
  while (const auto mf_failed = ::mindforge::internal::CheckOk(           \
             ::mindforge::internal::AsStatus(__VA_ARGS__), #__VA_ARGS__)) \
  ::mindforge::internal::CheckFailure(__FILE__, __LINE__, *mf_failed).stream()
