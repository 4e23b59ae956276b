// What the CPU and the CUDA bindings of the operators on images share: argument checks and the output's memory format.
// It knows torch (through its stable ABI); kernels in .cu files do not include it.
#pragma once

#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <string>

#include "common.h"
#include "element_type.h"
#include "fresh_pages.h"
#include "resample.h"
#include "stable_torch.h"

namespace m2o_fast {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct ImageShape {
  int64_t batch, channels, height, width;
  MemoryFormat format;  // how x is laid out for the kernel, and how y is

  int64_t plane() const { return height * width; }
};

// Whether y is channels_last: where x is and where a slice of a channels_last tensor is. The same rule stands in
// m2o_fast/ops/_library.py (is_channels_last) and has to agree with it: torch.compile plans with that one.
inline bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) {
    return false;
  }
  const auto size = x.sizes();
  const auto stride = x.strides();
  int64_t inner = stride[1];
  int64_t count = size[1];
  for (const int dim : {3, 2}) {
    if (size[dim] == 1) {
      continue;
    }
    if (inner <= 0 || stride[dim] < inner * count) {
      return false;
    }
    inner = stride[dim];
    count = size[dim];
  }
  return inner > 0 && (size[2] != 1 || size[3] != 1);
}

// Whether x is without gaps in the order N, H, W, C.
inline bool is_dense_channels_last(const Tensor& x) {
  const auto size = x.sizes();
  const auto stride = x.strides();
  int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (size[dim] != 1 && stride[dim] != expected) {
      return false;
    }
    expected *= size[dim];
  }
  return true;
}

inline ScalarType statistics_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline ElementType element_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return ElementType::float32;
    case ScalarType::Double:
      return ElementType::float64;
    case ScalarType::Half:
      return ElementType::float16;
    default:
      return ElementType::bfloat16;
  }
}

// x laid out densely in the format; x itself if it is, without a call of torch's dispatcher.
inline Tensor in_format(const Tensor& x, MemoryFormat format) {
  const bool as_it_is = format == MemoryFormat::ChannelsLast ? is_dense_channels_last(x) : x.is_contiguous();
  return as_it_is ? x : torch::stable::contiguous(x, format);
}

inline Tensor in_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

inline std::string words_of_shape(const Tensor& tensor) {
  std::ostringstream words;
  words << '[';
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    words << (dim ? ", " : "") << tensor.size(dim);
  }
  words << ']';
  return words.str();
}

inline void require_floating(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  require(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
              type == ScalarType::BFloat16,
          op, name, " must be float32, float64, float16 or bfloat16, got ", torch::headeronly::toString(type));
}

inline void require_device(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  require(tensor.is_cuda() == x.is_cuda() && tensor.is_cpu() == x.is_cpu() &&
              tensor.get_device_index() == x.get_device_index(),
          op, name, " must be on the device of x");
}

inline ImageShape check_input(const char* op, const Tensor& x) {
  require(x.dim() == 4, op, "x must be [N, C, H, W], got ", words_of_shape(x));
  require_floating(op, "x", x);
  const MemoryFormat format = is_channels_last(x) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  return {x.size(0), x.size(1), x.size(2), x.size(3), format};
}

// gamma or beta: [N, C], or [C] for all samples alike.
inline void check_affine(const char* op, const char* name, const Tensor& affine, const Tensor& x) {
  require_floating(op, name, affine);
  require_device(op, name, affine, x);
  const bool fits = (affine.dim() == 1 && affine.size(0) == x.size(1)) ||
                    (affine.dim() == 2 && affine.size(0) == x.size(0) && affine.size(1) == x.size(1));
  require(fits, op, name, " must be [N, C] or [C] for x of shape ", words_of_shape(x), ", got ",
          words_of_shape(affine));
}

inline void check_statistics(const char* op, const char* name, const Tensor& statistics, const Tensor& x) {
  require_device(op, name, statistics, x);
  require(statistics.dim() == 2 && statistics.size(0) == x.size(0) && statistics.size(1) == x.size(1), op, name,
          " must be [N, C] for x of shape ", words_of_shape(x), ", got ", words_of_shape(statistics));
  require(statistics.scalar_type() == statistics_type(x.scalar_type()), op, name,
          " must be float32 (float64 for float64 x), got ", torch::headeronly::toString(statistics.scalar_type()));
}

inline void check_gradient(const char* op, const Tensor& grad, const Tensor& x) {
  require_device(op, "grad", grad, x);
  bool same = grad.dim() == 4;
  for (int dim = 0; same && dim < 4; ++dim) {
    same = grad.size(dim) == x.size(dim);
  }
  require(same, op, "grad must have the shape of x, ", words_of_shape(x), ", got ", words_of_shape(grad));
  require(grad.scalar_type() == x.scalar_type(), op, "grad must have the dtype of x, ",
          torch::headeronly::toString(x.scalar_type()), ", got ", torch::headeronly::toString(grad.scalar_type()));
}

inline Resample as_resample(const char* op, int64_t resample) {
  require(resample >= 0 && resample <= 2, op, "resample must be 0 (none), 1 (up2) or 2 (down2), got ", resample);
  return static_cast<Resample>(resample);
}

inline int64_t bytes_of(ScalarType type) { return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2; }

inline int32_t shim_type(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    default:
      return aoti_torch_dtype_bfloat16();
  }
}

// A fresh tensor where x is, on a CPU with its pages. torch::stable::empty looks its operator up by name and goes
// through the dispatcher.
template <size_t rank>
Tensor empty_tensor(const std::array<int64_t, rank>& sizes, ScalarType type, const Tensor& x,
                    MemoryFormat format = MemoryFormat::Contiguous) {
  std::array<int64_t, rank> strides;
  int64_t stride = 1;
  const auto place = [&](size_t dim) {
    strides[dim] = stride;
    stride *= format == MemoryFormat::Contiguous ? std::max<int64_t>(1, sizes[dim]) : sizes[dim];
  };
  if (format == MemoryFormat::ChannelsLast) {
    for (const size_t dim : {1, 3, 2, 0}) {
      place(dim);
    }
  } else {
    for (size_t dim = rank; dim-- > 0;) {
      place(dim);
    }
  }
  int32_t device_type, device_index;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device_index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, sizes.data(), strides.data(), shim_type(type), device_type,
                                                  device_index, &handle));
  const Tensor y(handle);
  if (y.is_cpu()) {
    take_pages(y.mutable_data_ptr(), y.numel() * bytes_of(type));
  }
  return y;
}

inline Tensor empty_like_input(const Tensor& x, const ImageShape& shape) {
  return empty_tensor<4>({shape.batch, shape.channels, shape.height, shape.width}, x.scalar_type(), x, shape.format);
}

inline Tensor empty_statistics(const Tensor& x) {
  return empty_tensor<2>({x.size(0), x.size(1)}, statistics_type(x.scalar_type()), x);
}

}  // namespace m2o_fast
