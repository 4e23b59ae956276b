// Compiled without a sanitizer's instrumentation, and linked with the sanitizer.
#include "fibers.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if defined(EMULATION_ADDRESS)
#include <sanitizer/common_interface_defs.h>
extern "C" void __ubsan_handle_out_of_bounds_abort(void* data, void* index);
#elif defined(EMULATION_THREAD)
#include <sanitizer/tsan_interface.h>
extern "C" void __sanitizer_set_death_callback(void (*callback)());
// Volatile reads are relaxed atomic ones on a GPU, so they are part of no race.
extern "C" void __tsan_volatile_read4(void*) {}
#endif

namespace emulation {
namespace {
constexpr size_t kStackBytes = 256 * 1024, kGuardBytes = 4096;
void* main_jump[5];
[[maybe_unused]] void* main_sanitizer = nullptr;
#if defined(EMULATION_ADDRESS)
const void* main_stack = nullptr;
size_t main_stack_bytes = 0;
#endif

// GCC's own jumps: swapcontext() enters the kernel twice, and the sanitizers take a call of longjmp() for the end of
// all frames above. They must not be made by the function that has set the mark.
[[noreturn, gnu::noinline]] void jump_to(void** mark) { __builtin_longjmp(mark, 1); }

[[gnu::noinline]] void switch_to(void** from, Fiber* first_time, void** to) {
  if (__builtin_setjmp(from) == 0) {
    if (first_time != nullptr) {
      setcontext(&first_time->start);
    }
    jump_to(to);
  }
}
}  // namespace

void create_fiber(Fiber& fiber, void (*run)()) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    perror("a fiber's stack");
    abort();
  }
  fiber.stack = static_cast<unsigned char*>(memory) + kGuardBytes;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack;
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, run, 0);
#if defined(EMULATION_THREAD)
  fiber.sanitizer = __tsan_create_fiber(0);
#endif
}

void resume(Fiber& fiber) {
#if defined(EMULATION_ADDRESS)
  __sanitizer_start_switch_fiber(&main_sanitizer, fiber.stack, kStackBytes);
#elif defined(EMULATION_THREAD)
  main_sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber.sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  Fiber* first_time = fiber.started ? nullptr : &fiber;
  fiber.started = true;
  switch_to(main_jump, first_time, fiber.jump);
#if defined(EMULATION_ADDRESS)
  __sanitizer_finish_switch_fiber(main_sanitizer, nullptr, nullptr);
#endif
}

void pause(Fiber& fiber) {
#if defined(EMULATION_ADDRESS)
  __sanitizer_start_switch_fiber(&fiber.sanitizer, main_stack, main_stack_bytes);
#elif defined(EMULATION_THREAD)
  __tsan_switch_to_fiber(main_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  switch_to(fiber.jump, nullptr, main_jump);
  begin_fiber(fiber);
}

void begin_fiber([[maybe_unused]] Fiber& fiber) {
#if defined(EMULATION_ADDRESS)
  __sanitizer_finish_switch_fiber(fiber.sanitizer, &main_stack, &main_stack_bytes);
#endif
}

void acquire([[maybe_unused]] void* token) {
#if defined(EMULATION_THREAD)
  __tsan_acquire(token);
#endif
}

void release([[maybe_unused]] void* token) {
#if defined(EMULATION_THREAD)
  __tsan_release(token);
#endif
}

void at_report([[maybe_unused]] void (*print)()) {
#if defined(EMULATION_ADDRESS) || defined(EMULATION_THREAD)
  __sanitizer_set_death_callback(print);
#endif
#if defined(EMULATION_ADDRESS)
  // UndefinedBehaviorSanitizer is a library of its own, with a function of the same name.
  Dl_info library;
  if (dladdr(reinterpret_cast<void*>(&__ubsan_handle_out_of_bounds_abort), &library) != 0) {
    void* opened = dlopen(library.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (void* function = opened == nullptr ? nullptr : dlsym(opened, "__sanitizer_set_death_callback")) {
      reinterpret_cast<void (*)(void (*)())>(function)(print);
    }
  }
#endif
}

}  // namespace emulation
