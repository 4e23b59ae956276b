// What the CPU and the CUDA bindings of the histogram operators share: tensors as Images, and argument checks.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "common.h"
#include "histogram.h"
#include "stable_torch.h"

namespace m2o_fast {

inline void require_bits(const char* op, int64_t bits) {
  require(bits >= 1 && bits <= 8, op, "bits must be in [1, 8], got ", bits);
}

inline void require_cells(const char* op, int64_t bins, int64_t groups) {
  require(bins >= 1 && bins <= 256, op, "bins must be in [1, 256], got ", bins);
  require(groups >= 1 && groups < (int64_t{1} << 31), op, "num_groups must be in [1, 2^31 - 1], got ", groups);
}

inline void require_same_device(const char* op, const torch::stable::Tensor& one, const torch::stable::Tensor& other) {
  require(one.is_cpu() == other.is_cpu() && one.get_device_index() == other.get_device_index(), op,
          "needs all tensors on one device");
}

inline Pixel pixel_of(const torch::stable::Tensor& tensor, const char* op) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Byte:
      return Pixel::uint8;
    case ScalarType::Half:
      return Pixel::float16;
    case ScalarType::BFloat16:
      return Pixel::bfloat16;
    case ScalarType::Float:
      return Pixel::float32;
    case ScalarType::Double:
      return Pixel::float64;
    default:
      require(false, op, "needs a uint8 or floating-point tensor");
      return Pixel::uint8;
  }
}

// The dtype of colours and of soft counts.
inline torch::headeronly::ScalarType color_type(Pixel pixel) {
  using torch::headeronly::ScalarType;
  return pixel == Pixel::float64 ? ScalarType::Double : ScalarType::Float;
}

// [N, 3, H, W]
inline Images images_of(const torch::stable::Tensor& images, const char* op) {
  require(images.dim() == 4 && images.size(1) == 3, op, "needs images of shape [N, 3, H, W]");
  return {images.const_data_ptr(), pixel_of(images, op), images.size(0),   images.size(2),  images.size(3),
          images.stride(0),        images.stride(1),     images.stride(2), images.stride(3)};
}

// [N, H, W], beside images of the same size and dtype
inline std::optional<Images> content_of(const std::optional<torch::stable::Tensor>& content,
                                        const torch::stable::Tensor& images, const Images& view, const char* op) {
  if (!content) {
    return std::nullopt;
  }
  require(content->dim() == 3 && content->size(0) == view.count && content->size(1) == view.height &&
              content->size(2) == view.width && content->scalar_type() == images.scalar_type(),
          op, "needs content of shape [N, H, W] and of the images' dtype");
  require_same_device(op, images, *content);
  return Images{content->const_data_ptr(), view.pixel, view.count,         view.height,       view.width,
                content->stride(0),        0,          content->stride(1), content->stride(2)};
}

// Colours [N, 3]: one image of 1 x N pixels.
inline Images colors_of(const torch::stable::Tensor& colors, const char* op) {
  require(colors.dim() == 2 && colors.size(1) == 3, op, "needs colours of shape [N, 3]");
  return {colors.const_data_ptr(), pixel_of(colors, op), 1, 1, colors.size(0), 0, colors.stride(1), 0,
          colors.stride(0)};
}

// The group of each colour; without numbers, all belong to group 0.
struct Groups {
  const int64_t* number;
  int64_t stride;
};

inline Groups groups_of(const std::optional<torch::stable::Tensor>& groups, const torch::stable::Tensor& colors,
                        const char* op) {
  if (!groups) {
    return {nullptr, 0};
  }
  require(groups->dim() == 1 && groups->size(0) == colors.size(0) &&
              groups->scalar_type() == torch::headeronly::ScalarType::Long,
          op, "needs int64 groups of shape [N]");
  require_same_device(op, colors, *groups);
  return {groups->const_data_ptr<int64_t>(), groups->stride(0)};
}

// The gradient of a soft histogram: [groups, bins^3], float64 for float64 colours and else float32.
inline void require_soft_gradient(const char* op, const torch::stable::Tensor& grad,
                                  const torch::stable::Tensor& colors, int64_t bins) {
  require(grad.dim() == 2, op, "needs a gradient of shape [groups, bins^3]");
  require_cells(op, bins, grad.size(0));
  require(grad.size(1) == bins * bins * bins, op, "needs a gradient of shape [groups, bins^3]");
  require(grad.scalar_type() == color_type(pixel_of(colors, op)), op,
          "needs a float32 gradient, or a float64 one for float64 colours");
  require_same_device(op, colors, grad);
}

}  // namespace m2o_fast
