// The one place where ThreadSanitizer is told what it cannot see: that gRPC, which is not built
// with it, hands a call from one of its threads to another. Empty in other builds.
#pragma once

#if defined(__SANITIZE_THREAD__)
#define MINDFORGE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MINDFORGE_TSAN 1
#endif
#endif

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
