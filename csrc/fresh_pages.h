// The pages of a new result, asked for before they are written.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common.h"
#include "stable_torch.h"
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#if !defined(MADV_POPULATE_WRITE)
#define MADV_POPULATE_WRITE 23  // since Linux 5.14; older headers do not name it
#endif
#endif

namespace m2o_fast {

// From these sizes on, in bytes, a result is likely to be new memory, and to hold a large page.
inline constexpr int64_t kFreshBytes = int64_t{1} << 19, kLargeBytes = int64_t{1} << 22;
// A thread takes so many bytes at a time.
inline constexpr int64_t kTakenBytes = int64_t{1} << 20;

// Whether memory is new, by its last page and one in the middle: what the allocator hands out again has them.
inline bool is_fresh(int64_t from, int64_t to, int64_t page) {
#if defined(__linux__)
  for (const int64_t place : {to - page, from + (to - from) / page / 2 * page}) {
    unsigned char present = 0;
    if (mincore(reinterpret_cast<void*>(place), page, &present) == 0 && !(present & 1)) {
      return true;
    }
  }
#endif
  return false;
}

// Each page of new memory costs a fault when it is first written, half of the time of a pass through large images.
// Asked for by one call they cost a third of that, and larger pages are fewer. A system that knows neither leaves
// everything as it is. To ask for pages that are there costs 0.15 us each, which made passes through 4 MB a third
// to two thirds slower, so that is found out first.
inline void take_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  if (bytes < kFreshBytes) {
    return;
  }
  static const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t first = reinterpret_cast<intptr_t>(memory);
  const int64_t from = (first + page - 1) / page * page, to = (first + bytes) / page * page;  // no other's pages
  if (!is_fresh(from, to, page)) {
    return;
  }
  if (bytes >= kLargeBytes) {
    madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
  }
  torch::stable::parallel_for(0, ceil_div(to - from, kTakenBytes), 1, [&](int64_t begin, int64_t end) {
    const int64_t part = from + begin * kTakenBytes;
    madvise(reinterpret_cast<void*>(part), std::min(from + end * kTakenBytes, to) - part, MADV_POPULATE_WRITE);
  });
#endif
}

}  // namespace m2o_fast
