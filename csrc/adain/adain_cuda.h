// The CUDA side of the adain operators as the bindings see it: plain pointers, sizes and a stream; no torch, no CUDA
// header.
//
// The definition of both operators is the reference in m2o_fast/ops/adain.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element_type.h"
#include "resample.h"

namespace m2o_fast {

// One call of adain_act (y, mean and rstd are written) or of adain_act_backward (the three gradients are written).
// "Statistics type" is float64 for float64 images and float32 for all others.
struct AdainArguments {
  const void* x;                   // [N, C, H, W], dense, NCHW or, with channels_last, NHWC; not empty
  const void* gamma;               // [N, C] behind gamma_strides, which count elements and may be 0
  const void* beta;                // [N, C] behind beta_strides
  const void* grad;                // backward only: the gradient of y, like y
  void* mean;                      // [2, N, C], statistics type: mean and what rounding took from it; the forward
                                   // writes it, the backward reads it
  void* rstd;                      // [N, C], likewise
  void* y;                         // forward: of x's dtype and memory format, and of its shape or resampled
  void* grad_x;                    // backward: like x
  void* grad_gamma;                // backward: [N, C], statistics type
  void* grad_beta;                 // backward: likewise
  void* workspace;                 // as large as adain_*_workspace() says, aligned to 16; nullptr for 0
  int64_t batch, channels, plane;  // N, C, H * W
  int64_t width;                   // W
  int64_t gamma_strides[2], beta_strides[2];
  ElementType dtype;
  Resample resample;
  double eps, slope;
  bool gamma_wide, beta_wide;  // of the statistics type, else of x's dtype
  bool one_plus, channels_last;
};

// All functions work on the current device and return nullptr, or CUDA's words for what went wrong.

// `bytes` becomes the size of the workspace that the call needs. All other arguments must be set.
const char* adain_forward_workspace(const AdainArguments& arguments, size_t& bytes);
const char* adain_backward_workspace(const AdainArguments& arguments, size_t& bytes);

// Start the call on a stream (a cudaStream_t).
const char* adain_forward(const AdainArguments& arguments, void* stream);
const char* adain_backward(const AdainArguments& arguments, void* stream);

}  // namespace m2o_fast
