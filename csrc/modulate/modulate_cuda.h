// The CUDA side of scale_bias_act as the bindings see it: plain pointers, sizes and a stream; no torch, no CUDA header.
//
// The definition of both operators is the reference in m2o_fast/ops/modulate.py.
#pragma once

#include <cstdint>

#include "element_type.h"
#include "plane_numbers.h"
#include "workspace.h"

namespace m2o_fast {

// One call of scale_bias_act (out is y) or of scale_bias_act_backward (out is the gradient of x).
struct ModulateArguments {
  const void* x;     // [N, C, H, W], dense, NCHW or, with channels_last, NHWC; not empty
  const void* grad;  // backward only: the gradient of y, of x's dtype and memory format
  void* out;         // like x
  PlaneNumbers scale, bias, next;
  void* gradients[3];  // backward only: those of scale, bias and next, [N, C], type of the sums; nullptr: not wanted
  void* workspace;     // backward only: set by the call, where it needs one
  int64_t batch, channels, plane;  // N, C, H * W
  ElementType dtype;
  double slope;
  bool channels_last;
};

// Start the call on a stream (a cudaStream_t) of the current device. They return nullptr, or CUDA's words for what went
// wrong.
const char* modulate_forward(const ModulateArguments& arguments, void* stream);
const char* modulate_backward(const ModulateArguments& arguments, const Workspace& workspace, void* stream);

}  // namespace m2o_fast
