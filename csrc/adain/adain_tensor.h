// What the CPU and the CUDA bindings of the adain operators share beyond tensor.h: y, which may be resampled.
#pragma once

#include "tensor.h"

namespace m2o_fast {

inline void check_eps(const char* op, double eps) { require(eps >= 0, op, "eps must be at least 0, got ", eps); }

// The shape of y and of its gradient, for x of this shape.
inline ImageShape resampled_shape(const char* op, const ImageShape& x, Resample resample) {
  ImageShape y = x;
  if (resample == Resample::up2) {
    y.height = 2 * x.height;
    y.width = 2 * x.width;
  } else if (resample == Resample::down2) {
    require(x.height % 2 == 0 && x.width % 2 == 0, op, "height and width of x must be even for down2, got ", x.height,
            " x ", x.width);
    y.height = x.height / 2;
    y.width = x.width / 2;
  }
  return y;
}

inline void check_output_gradient(const char* op, const Tensor& grad, const Tensor& x, const ImageShape& y) {
  require_device(op, "grad", grad, x);
  const bool same = grad.dim() == 4 && grad.size(0) == y.batch && grad.size(1) == y.channels &&
                    grad.size(2) == y.height && grad.size(3) == y.width;
  require(same, op, "grad must have the shape of y, [", y.batch, ", ", y.channels, ", ", y.height, ", ", y.width,
          "], got ", words_of_shape(grad));
  require(grad.scalar_type() == x.scalar_type(), op, "grad must have the dtype of x, ",
          torch::headeronly::toString(x.scalar_type()), ", got ", torch::headeronly::toString(grad.scalar_type()));
}

// [2, N, C]: the mean of each plane, and what rounding took from it.
inline Tensor empty_mean(const Tensor& x) {
  return empty_tensor<3>({2, x.size(0), x.size(1)}, statistics_type(x.scalar_type()), x);
}

inline void check_mean(const char* op, const Tensor& mean, const Tensor& x) {
  require_device(op, "mean", mean, x);
  require(mean.dim() == 3 && mean.size(0) == 2 && mean.size(1) == x.size(0) && mean.size(2) == x.size(1), op,
          "mean must be [2, N, C] for x of shape ", words_of_shape(x), ", got ", words_of_shape(mean));
  require(mean.scalar_type() == statistics_type(x.scalar_type()), op,
          "mean must be float32 (float64 for float64 x), got ", torch::headeronly::toString(mean.scalar_type()));
}

}  // namespace m2o_fast
