// Planes of y that are larger or smaller than those of x, and their gradients: [N, C, plane] on the CPU.
//
// A few rows at a time go through buffers that stay in the first-level cache. The loops over these are plain ones,
// which the compiler vectorises.
//
// The gradient of y is brought to the size of x one plane at a time, in the type of the sums and in a buffer of the
// thread, before the two passes over the plane. In planes P of x, "up2" so reads 4 P of it once, and what the passes
// read stays in the caches: 6 P go through memory (with x and its gradient). Summing four numbers in both passes would
// read the 4 P twice, from the second-level cache at best; a pass of its own over the whole tensor would move 8 P.
#pragma once

#include <algorithm>
#include <vector>

#include "adain_planes.h"

namespace m2o_fast {

// Rows that are worked on together hold about so many numbers.
constexpr int64_t kResampledBlock = 1024;

inline int64_t rows_at_a_time(int64_t width) {
  return std::max<int64_t>(1, kResampledBlock / std::max<int64_t>(1, width));
}

// sums[i] = the sum over the square at columns 2 i and 2 i + 1 of two rows.
template <typename Wide>
M2O_INLINE void sum_squares(const Wide* upper, const Wide* lower, Wide* sums, int64_t count, Wide factor) {
  for (int64_t i = 0; i < count; ++i) {
    sums[i] = ((upper[2 * i] + lower[2 * i]) + (upper[2 * i + 1] + lower[2 * i + 1])) * factor;
  }
}

// Every number twice.
template <typename Number>
M2O_INLINE void double_row(const Number* from, Number* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[2 * i] = from[i];
    to[2 * i + 1] = from[i];
  }
}

template <typename T>
struct Up2PlaneWriter {
  using Wide = typename Simd<T>::Wide;
  std::vector<T> values, doubled;

  M2O_INLINE explicit Up2PlaneWriter(const AdainProblem<T>& p) {
    values.resize(rows_at_a_time(p.width) * p.width);
    doubled.resize(2 * p.width);
  }

  M2O_INLINE void write(const AdainProblem<T>& p, int64_t plane, Coefficients<Wide> c) {
    const T* x = p.x + plane * p.plane;
    T* y = p.out + plane * 4 * p.plane;
    const bool rows_are_aligned = is_aligned(y) && 2 * p.width * sizeof(T) % 16 == 0;
    with_constant(p.streamed && rows_are_aligned, [&](auto streamed) M2O_INLINED {
      const int64_t step = rows_at_a_time(p.width);
      for (int64_t first = 0; first < p.height; first += step) {
        const int64_t rows = std::min(step, p.height - first);
        apply_plane(x + first * p.width, values.data(), rows * p.width, c, p.slope, std::false_type{});
        for (int64_t row = 0; row < rows; ++row) {
          double_row(values.data() + row * p.width, doubled.data(), p.width);
          T* to = y + (first + row) * 4 * p.width;
          put_row(to, doubled.data(), 2 * p.width, streamed);
          put_row(to + 2 * p.width, doubled.data(), 2 * p.width, streamed);
        }
      }
    });
  }
};

template <typename T>
struct Down2PlaneWriter {
  using Wide = typename Simd<T>::Wide;
  std::vector<Wide> values, means;

  M2O_INLINE explicit Down2PlaneWriter(const AdainProblem<T>& p) {
    values.resize(2 * rows_at_a_time(p.width) * p.width + kLanes<T>);
    means.resize(p.width / 2 * rows_at_a_time(p.width) + kLanes<T>);
  }

  M2O_INLINE void write(const AdainProblem<T>& p, int64_t plane, Coefficients<Wide> c) {
    const T* x = p.x + plane * p.plane;
    T* y = p.out + plane * (p.plane / 4);
    const int64_t half = p.width / 2, step = rows_at_a_time(p.width);
    for (int64_t first = 0; first < p.height / 2; first += step) {
      const int64_t rows = std::min(step, p.height / 2 - first);
      const T* from = x + first * 2 * p.width;
      for_vectors<T>(rows * 2 * p.width, [&](int64_t offset, auto count, int) M2O_INLINED {
        const auto value = (load_lanes<T>(from + offset, count) - c.mean) * c.scale + c.shift;
        Simd<T>::store_wide(values.data() + offset, activate(value, p.slope));
      });
      for (int64_t row = 0; row < rows; ++row) {
        const Wide* upper = values.data() + row * 2 * p.width;
        sum_squares(upper, upper + p.width, means.data() + row * half, half, Wide(0.25));
      }
      T* to = y + first * half;
      for_vectors<T>(rows * half, [&](int64_t offset, auto count, int) M2O_INLINED {
        store_lanes<T>(to + offset, Simd<T>::load_wide(means.data() + offset), count);
      });
    }
  }
};

template <typename T>
struct ResampledPlaneGradient {
  using Wide = typename Simd<T>::Wide;
  std::vector<Wide> values;   // of a plane as large as x
  std::vector<Wide> widened;  // a few rows of the gradient

  M2O_INLINE explicit ResampledPlaneGradient(const AdainProblem<T>& p) {
    values.resize(p.plane);
    widened.resize(4 * rows_at_a_time(p.width) * p.width + kLanes<T>);
  }

  M2O_INLINE const Wide* scratch(const AdainProblem<T>& p, int64_t plane) {
    if (p.resample == Resample::up2) {
      sum_rows(p, p.grad + plane * 4 * p.plane);
    } else {
      spread_rows(p, p.grad + plane * (p.plane / 4));
    }
    return values.data();
  }

 private:
  M2O_INLINE const Wide* widen_rows(const T* from, int64_t size) {
    if constexpr (std::is_same_v<T, Wide>) {
      return from;
    } else {
      for_vectors<T>(size, [&](int64_t offset, auto count, int) M2O_INLINED {
        Simd<T>::store_wide(widened.data() + offset, load_lanes<T>(from + offset, count));
      });
      return widened.data();
    }
  }

  M2O_INLINE void sum_rows(const AdainProblem<T>& p, const T* grad) {
    const int64_t step = rows_at_a_time(p.width);
    for (int64_t first = 0; first < p.height; first += step) {
      const int64_t rows = std::min(step, p.height - first);
      const Wide* from = widen_rows(grad + first * 4 * p.width, rows * 4 * p.width);
      for (int64_t row = 0; row < rows; ++row) {
        const Wide* upper = from + row * 4 * p.width;
        sum_squares(upper, upper + 2 * p.width, values.data() + (first + row) * p.width, p.width, Wide(1));
      }
    }
  }

  M2O_INLINE void spread_rows(const AdainProblem<T>& p, const T* grad) {
    const int64_t half = p.width / 2, step = rows_at_a_time(p.width);
    for (int64_t first = 0; first < p.height / 2; first += step) {
      const int64_t rows = std::min(step, p.height / 2 - first);
      const Wide* from = widen_rows(grad + first * half, rows * half);
      for (int64_t row = 0; row < rows; ++row) {
        Wide* to = values.data() + (first + row) * 2 * p.width;
        for (int64_t i = 0; i < half; ++i) {
          to[2 * i] = to[2 * i + 1] = from[row * half + i] * Wide(0.25);
        }
        std::memcpy(to + p.width, to, p.width * sizeof(Wide));
      }
    }
  }
};

}  // namespace m2o_fast
