// What the CPU and the CUDA bindings of scale_bias_act share.
#pragma once

#include <array>
#include <optional>

#include "tensor.h"

namespace m2o_fast {

using OptionalTensor = std::optional<Tensor>;

// Each [N, C], or [C] for all samples alike; without one: 1, 0 and 1.
struct ModulateVectors {
  OptionalTensor scale, bias, next;
};

inline ImageShape check_modulate(const char* op, const Tensor& x, const ModulateVectors& vectors) {
  const ImageShape shape = check_input(op, x);
  const auto check = [&](const char* name, const OptionalTensor& vector) {
    if (vector) {
      check_affine(op, name, *vector, x);
    }
  };
  check("scale", vectors.scale);
  check("bias", vectors.bias);
  check("next_scale", vectors.next);
  return shape;
}

// For the gradient of a vector: [N, C], or [0] if there is no such vector.
inline Tensor empty_sums(const OptionalTensor& vector, const Tensor& x) {
  if (vector) {
    return empty_statistics(x);
  }
  return empty_tensor<1>({0}, statistics_type(x.scalar_type()), x);
}

}  // namespace m2o_fast
