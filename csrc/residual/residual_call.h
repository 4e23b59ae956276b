// The residual family's calls as its bindings hand them to kernels: plain pointers, sizes and numbers; no torch, no
// CUDA.
//
// All of them relate images at two resolutions, a coarse grid and a fine one with twice its height and width: every
// coarse number belongs to a quad, 2 x 2 fine ones. The definitions are in m2o_fast/ops/residual.py.
#pragma once

#include <cstdint>

#include "element_type.h"

namespace m2o_fast {

enum class QuadOperation : int32_t {
  merge_up2,       // fine_out = (fine + coarse) * scale
  merge_down2,     // coarse_out = (coarse + mean of fine) * scale
  backward_up2,    // coarse_out = scale * sum of fine; fine_out = scale * fine, if there
  backward_down2,  // fine_out = scale / 4 * coarse; coarse_out = scale * coarse, if there
  leaky,           // coarse_out = mean of LeakyReLU(fine)
  leaky_backward,  // fine_out = LeakyReLU'(fine) * coarse / 4
  leaky_tangent,   // coarse_out = mean of LeakyReLU'(fine) * along
};

// Images are dense. To the kernels they are one tall image without gaps, since a plane has an even number of fine rows.
// A pixel is one number in NCHW (so rows = N * C * H) and `channels` neighbouring ones in NHWC (so rows = N * H).
struct QuadShape {
  int64_t rows, width, channels;  // of the coarse grid; channels is 1 for NCHW
  bool channels_last;

  constexpr int64_t coarse_row() const { return width * channels; }
  constexpr int64_t fine_row() const { return 2 * width * channels; }
};

struct QuadCall {
  QuadOperation operation;
  ElementType dtype;
  QuadShape shape;
  const void* fine;
  const void* along;
  const void* coarse;
  void* fine_out;
  void* coarse_out;
  double scale, slope;
};

// y = (a + b) * scale for `count` numbers; b may be missing.
struct MergeCall {
  ElementType dtype;
  int64_t count;
  const void* a;
  const void* b;
  void* y;
  double scale;
};

}  // namespace m2o_fast
