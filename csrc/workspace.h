// How a call on a GPU gets memory for what its kernels hand to each other; no torch, no CUDA header.
#pragma once

#include <cstddef>
#include <functional>

namespace m2o_fast {

// Returns so many bytes on the current device, aligned to 16 and there until the call's kernels are done. A call asks
// at most once, and only if it needs any.
using Workspace = std::function<void*(size_t bytes)>;

}  // namespace m2o_fast
