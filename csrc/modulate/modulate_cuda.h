// The CUDA side of scale_bias_act as the bindings see it: plain pointers, sizes and a stream; no torch, no CUDA header.
//
// The definition of both operators is the reference in m2o_fast/ops/modulate.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element_type.h"

namespace m2o_fast {

// A number per plane, [N, C].
struct PlaneNumbers {
  const void* data;    // nullptr: there is no such vector
  int64_t strides[2];  // over samples and channels, in elements; may be 0
  bool wide;           // of the type of the sums (float64 for float64 images, else float32), else of the images' type
};

// One call of scale_bias_act (out is y) or of scale_bias_act_backward (out is the gradient of x).
struct ModulateArguments {
  const void* x;     // [N, C, H, W], dense, NCHW or, with channels_last, NHWC; not empty
  const void* grad;  // backward only: the gradient of y, of x's dtype and memory format
  void* out;         // like x
  PlaneNumbers scale, bias, next;
  void* gradients[3];  // backward only: those of scale, bias and next, [N, C], type of the sums; nullptr: not wanted
  void* workspace;     // backward only: as large as modulate_backward_workspace() says; nullptr for 0
  int64_t batch, channels, plane;  // N, C, H * W
  ElementType dtype;
  double slope;
  bool channels_last;
};

// All functions work on the current device and return nullptr, or CUDA's words for what went wrong.

// `bytes` becomes the size of the workspace that the call needs. All other arguments must be set.
const char* modulate_backward_workspace(const ModulateArguments& arguments, size_t& bytes);

// Start the call on a stream (a cudaStream_t).
const char* modulate_forward(const ModulateArguments& arguments, void* stream);
const char* modulate_backward(const ModulateArguments& arguments, void* stream);

}  // namespace m2o_fast
