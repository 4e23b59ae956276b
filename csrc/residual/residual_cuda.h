// The CUDA side of the residual family as its bindings see it: no torch, no CUDA header.
#pragma once

#include "residual_call.h"

namespace m2o_fast {

// Start a call on a stream (a cudaStream_t) of the current device. They return nullptr, or CUDA's words for what went
// wrong. No call may be empty.
const char* run_quads(const QuadCall& call, void* stream);
const char* run_merge(const MergeCall& call, void* stream);

}  // namespace m2o_fast
