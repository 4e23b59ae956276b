// What the CUDA bindings of the operators share beyond tensor.h.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "tensor.h"

namespace m2o_fast {

using torch::stable::accelerator::DeviceGuard;

// The current stream (a cudaStream_t) of the device of x, which must be the current device.
inline void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

}  // namespace m2o_fast
