// What the CUDA bindings of the operators share beyond tensor.h.
#pragma once

#include <optional>

#include "plane_numbers.h"
#include "stable_torch.h"
#include "tensor.h"
#include "workspace.h"

namespace m2o_fast {

using torch::stable::accelerator::DeviceGuard;

// The current stream (a cudaStream_t) of the device of x, which must be the current device.
inline void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

// The workspace of one call on the device of x. Its end may come before the kernels': the memory goes to nobody but
// later work on the same stream.
class Scratch {
 public:
  explicit Scratch(const Tensor& x) : device_(x.device()) {}

  void* operator()(size_t bytes) {
    const std::array<int64_t, 1> size{static_cast<int64_t>(bytes)};
    memory_ = torch::stable::empty({size.data(), size.size()}, ScalarType::Byte, std::nullopt, device_);
    return memory_->mutable_data_ptr();
  }

 private:
  torch::stable::Device device_;
  std::optional<Tensor> memory_;
};

// A parameter [N, C] or [C] in a dtype that kernels read: that of x or of the sums.
inline Tensor in_readable_type(const Tensor& parameter, const Tensor& x) {
  const ScalarType type = parameter.scalar_type(), wide = statistics_type(x.scalar_type());
  return type == x.scalar_type() || type == wide ? parameter : in_type(parameter, wide);
}

// Of such a parameter, which must outlive the call of the kernel.
inline PlaneNumbers plane_numbers(const Tensor& parameter, const Tensor& x) {
  const bool per_sample = parameter.dim() == 2;
  return {parameter.const_data_ptr(),
          {per_sample ? parameter.stride(0) : 0, parameter.stride(per_sample ? 1 : 0)},
          parameter.scalar_type() == statistics_type(x.scalar_type())};
}

}  // namespace m2o_fast
