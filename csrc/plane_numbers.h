// A parameter of the operators on images as CUDA kernels see it; no torch, no CUDA header.
#pragma once

#include <cstdint>

namespace m2o_fast {

// A number per plane, [N, C].
struct PlaneNumbers {
  const void* data;    // nullptr: there is no such parameter
  int64_t strides[2];  // over samples and channels, in elements; may be 0
  bool wide;           // of the type of the sums (float64 for float64 images, else float32), else of the images' type
};

}  // namespace m2o_fast
