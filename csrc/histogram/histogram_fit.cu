// Foreground colours on the GPU. The definition is foreground_color_reference in m2o_fast/ops/histogram.py.
#include <limits>

#include "histogram_cuda.cuh"

namespace m2o_fast {
namespace {

constexpr int kFitThreads = 128;
constexpr int kFitWarps = kFitThreads / kWarpSize;
constexpr int kFitBlocks = 4;  // that a multiprocessor holds at least: with this bound no kernel spills

// Sums over one image or part: content * channel for the three channels, then content * content. Integers are added
// up exactly, all others in float64.
template <typename Stored>
using Sum = std::conditional_t<std::is_same_v<Stored, uint8_t>, unsigned long long, double>;

template <typename Stored>
using Color = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

// The least-squares colour, clamped to [0, 1]; black where there is no content, NaN where anything is not finite.
template <typename Real>
__device__ void write_color(const double (&sums)[4], Real* color) {
  const double square = sums[3] == 0 ? 1 : sums[3];
  const double fitted[3] = {sums[0] / square, sums[1] / square, sums[2] / square};
  const bool finite = is_finite(fitted[0]) && is_finite(fitted[1]) && is_finite(fitted[2]);
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const double clamped = fmin(fmax(fitted[k], 0.0), 1.0);
    color[k] = finite ? static_cast<Real>(clamped) : std::numeric_limits<Real>::quiet_NaN();
  }
}

template <typename Stored, PixelLayout kLayout>
__global__ void __launch_bounds__(kFitThreads, kFitBlocks)
    fit_kernel(Images images, const __grid_constant__ Images content, bool has_content, FitPlan plan, Divisor by_width,
               void* colors, double* workspace) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t warp = int64_t{blockIdx.x} * kFitWarps + threadIdx.x / kWarpSize;
  const int64_t items = images.count * plan.parts, pixels = images.height * images.width;
  for (int64_t item = warp; item < items; item += int64_t{gridDim.x} * kFitWarps) {
    const auto share = plan.by_parts.divide(item);
    const int64_t image = share.quotient, begin = share.remainder * plan.part_pixels;
    const int64_t end = begin + plan.part_pixels < pixels ? begin + plan.part_pixels : pixels;
    Sum<Stored> sums[4] = {};
    for_pixels<Stored, kLayout>(images, has_content ? &content : nullptr, by_width, image, begin, end, lane, kWarpSize,
                                [&](auto red, auto green, auto blue, auto weight) {
                                  if (!has_content) {
                                    const auto brighter = red > green ? red : green;
                                    weight = brighter > blue ? brighter : blue;
                                  }
                                  const Sum<Stored> wide = weight;
                                  sums[0] += wide * red;
                                  sums[1] += wide * green;
                                  sums[2] += wide * blue;
                                  sums[3] += wide * weight;
                                });
    sum_over_lanes(sums, kWarpSize);
    if (lane == 0) {
      const double total[4] = {static_cast<double>(sums[0]), static_cast<double>(sums[1]), static_cast<double>(sums[2]),
                               static_cast<double>(sums[3])};
      if (plan.parts == 1) {
        write_color(total, static_cast<Color<Stored>*>(colors) + 3 * image);
      } else {
        for (int k = 0; k < 4; ++k) {
          workspace[4 * item + k] = total[k];
        }
      }
    }
  }
}

// Puts the parts together, in their order.
template <typename Real>
__global__ void __launch_bounds__(kFitThreads)
    finish_kernel(const double* workspace, int64_t images, int64_t parts, Real* colors) {
  const int64_t first = int64_t{blockIdx.x} * kFitThreads + threadIdx.x;
  for (int64_t image = first; image < images; image += int64_t{gridDim.x} * kFitThreads) {
    double sums[4] = {};
    for (int64_t part = 0; part < parts; ++part) {
      for (int k = 0; k < 4; ++k) {
        sums[k] += workspace[4 * (image * parts + part) + k];
      }
    }
    write_color(sums, colors + 3 * image);
  }
}

}  // namespace

int64_t foreground_color_workspace(const Images& images) {
  const FitPlan plan = plan_fit(images);
  return plan.parts == 1 ? 0 : 4 * images.count * plan.parts;
}

const char* foreground_color_cuda(const Images& images, const Images* content, void* colors, double* workspace,
                                  void* stream_pointer) {
  if (images.count == 0) {
    return nullptr;
  }
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const FitPlan plan = plan_fit(images);
  const unsigned blocks = grid_for(ceil_div(images.count * plan.parts, kFitWarps));
  with_stored_and_layout(images, content, [&](auto stored, auto layout) {
    using Stored = decltype(stored);
    fit_kernel<Stored, decltype(layout)::value><<<blocks, kFitThreads, 0, stream>>>(
        images, content ? *content : Images{}, content != nullptr, plan, Divisor(images.width), colors, workspace);
    if (plan.parts > 1) {
      finish_kernel<<<grid_for(ceil_div(images.count, kFitThreads)), kFitThreads, 0, stream>>>(
          workspace, images.count, plan.parts, static_cast<Color<Stored>*>(colors));
    }
  });
  return words_of(cudaGetLastError());
}

}  // namespace m2o_fast
