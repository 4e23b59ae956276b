// Fibers, announced to the sanitizers: AddressSanitizer has to know which stack is in use, and to ThreadSanitizer every
// fiber is a thread.
#pragma once

#include <ucontext.h>

#include <cstddef>

namespace emulation {

struct Fiber {
  ucontext_t start;
  void* jump[5] = {};  // where it goes on
  bool started = false;
  unsigned char* stack = nullptr;
  void* sanitizer = nullptr;  // what it knows the fiber by
};

// The fiber calls run() when it is resumed for the first time, which must not return.
void create_fiber(Fiber& fiber, void (*run)());
// From the main stack to the fiber, until that one pauses.
void resume(Fiber& fiber);
// From the fiber, which is the one that runs, back to the main stack.
void pause(Fiber& fiber);
// The first thing that run() does.
void begin_fiber(Fiber& fiber);

// What happened before a release is known to happen before what follows a later acquire of the same token.
void acquire(void* token);
void release(void* token);
// Has `print` called before a sanitizer ends the process.
void at_report(void (*print)());

}  // namespace emulation
