// The CUDA side of the adain operators as the bindings see it: plain pointers, sizes and a stream; no torch, no CUDA
// header.
//
// The definition of both operators is the reference in m2o_fast/ops/adain.py.
#pragma once

#include <cstdint>

#include "element_type.h"
#include "plane_numbers.h"
#include "resample.h"
#include "workspace.h"

namespace m2o_fast {

// One call of adain_act (y, mean and rstd are written) or of adain_act_backward (the three gradients are written).
// "Statistics type" is float64 for float64 images and float32 for all others.
struct AdainArguments {
  const void* x;                   // [N, C, H, W], dense, NCHW or, with channels_last, NHWC; not empty
  const void* grad;                // backward only: the gradient of y, like y
  void* mean;                      // [2, N, C], statistics type: mean and what rounding took from it; the forward
                                   // writes it, the backward reads it
  void* rstd;                      // [N, C], likewise
  void* y;                         // forward: of x's dtype and memory format, and of its shape or resampled
  void* grad_x;                    // backward: like x
  void* grad_gamma;                // backward: [N, C], statistics type
  void* grad_beta;                 // backward: likewise
  void* workspace;                 // set by the call, where it needs one
  int64_t batch, channels, plane;  // N, C, H * W
  int64_t width;                   // W
  PlaneNumbers gamma, beta;        // always there
  ElementType dtype;
  Resample resample;
  double eps, slope;
  bool one_plus, channels_last;
};

// Start the call on a stream (a cudaStream_t) of the current device. They return nullptr, or CUDA's words for what went
// wrong.
const char* adain_forward(const AdainArguments& arguments, const Workspace& workspace, void* stream);
const char* adain_backward(const AdainArguments& arguments, const Workspace& workspace, void* stream);

}  // namespace m2o_fast
