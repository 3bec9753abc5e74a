// The one place where ThreadSanitizer is told what it cannot see: that gRPC, which is not built
// with it, hands a call from one of its threads to another. Empty in other builds; the build
// defines MINDFORGE_TSAN, since it hides the compiler's own macro from protobuf.
#pragma once

#ifdef MINDFORGE_TSAN
extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace mindforge {

// What happened before Give happens before what follows Take of the same address.
inline void Give([[maybe_unused]] const void* call) {
#ifdef MINDFORGE_TSAN
  __tsan_release(const_cast<void*>(call));
#endif
}
inline void Take([[maybe_unused]] const void* call) {
#ifdef MINDFORGE_TSAN
  __tsan_acquire(const_cast<void*>(call));
#endif
}

}  // namespace mindforge
