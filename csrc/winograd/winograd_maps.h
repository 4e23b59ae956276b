// Winograd's linear maps F(4x4, 3x3). The definitions are in m2o_fast/ops/winograd.py.
//
// Interpolation at 0, +-3/4, +-3/2 and infinity: of the points tried, those whose rounding errors are smallest. All
// constants but those of the kernel are exact in float32.
#pragma once

#include "simd.h"

namespace m2o_fast {

inline constexpr int64_t kOutputTile = 4, kInputTile = 6, kFrequencies = 36;
inline constexpr double kWinogradA = 0.75, kWinogradB = 1.5;

// A vector of so many bytes, whatever width the other kernels have.
template <typename T, int64_t kBytes>
struct VectorOf {
  using Type __attribute__((vector_size(kBytes))) = T;
};
template <typename Vector>
using NumberOf = std::remove_cvref_t<decltype(Vector{}[0])>;
template <typename Vector>
inline constexpr int64_t kLanesOf = sizeof(Vector) / sizeof(NumberOf<Vector>);

template <typename Vector>
M2O_INLINE void write_vector(NumberOf<Vector>* to, Vector value) {
  std::memcpy(to, &value, sizeof(value));
}

// --- in one direction -----------------------------------------------------------------------------------------------

template <typename T>
struct InputMap {
  static constexpr int kFrom = kInputTile, kTo = kInputTile;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* d, Vector* v) {
    constexpr T a = kWinogradA, b = kWinogradB, sum = a * a + b * b, product = a * a * b * b;
    const Vector even_a = d[4] - d[2] * (b * b), odd_a = (d[3] - d[1] * (b * b)) * a;
    const Vector even_b = d[4] - d[2] * (a * a), odd_b = (d[3] - d[1] * (a * a)) * b;
    v[0] = d[4] - d[2] * sum + d[0] * product;
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = d[5] - d[3] * sum + d[1] * product;
  }
};

// The transpose of InputMap.
template <typename T>
struct InputAdjointMap {
  static constexpr int kFrom = kInputTile, kTo = kInputTile;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* v, Vector* d) {
    constexpr T a = kWinogradA, b = kWinogradB, sum = a * a + b * b, product = a * a * b * b;
    const Vector even_a = v[1] + v[2], odd_a = (v[1] - v[2]) * a;
    const Vector even_b = v[3] + v[4], odd_b = (v[3] - v[4]) * b;
    d[0] = v[0] * product;
    d[1] = v[5] * product - odd_a * (b * b) - odd_b * (a * a);
    d[2] = -(v[0] * sum + even_a * (b * b) + even_b * (a * a));
    d[3] = odd_a + odd_b - v[5] * sum;
    d[4] = v[0] + even_a + even_b;
    d[5] = v[5];
  }
};

template <typename T>
struct OutputMap {
  static constexpr int kFrom = kInputTile, kTo = kOutputTile;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* m, Vector* y) {
    constexpr T a = kWinogradA, b = kWinogradB;
    const Vector sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const Vector sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = difference_a * a + difference_b * b;
    y[2] = sum_a * (a * a) + sum_b * (b * b);
    y[3] = difference_a * (a * a * a) + difference_b * (b * b * b) + m[5];
  }
};

// The transpose of OutputMap.
template <typename T>
struct OutputAdjointMap {
  static constexpr int kFrom = kOutputTile, kTo = kInputTile;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* y, Vector* m) {
    constexpr T a = kWinogradA, b = kWinogradB;
    const Vector even_a = y[0] + y[2] * (a * a), odd_a = y[1] * a + y[3] * (a * a * a);
    const Vector even_b = y[0] + y[2] * (b * b), odd_b = y[1] * b + y[3] * (b * b * b);
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
  }
};

// What the kernel's three numbers are multiplied by: the reciprocals of Lagrange's denominators.
template <typename T>
struct KernelScale {
  static constexpr double kA2 = kWinogradA * kWinogradA, kB2 = kWinogradB * kWinogradB;
  static constexpr T kZero = 1 / (kA2 * kB2), kA = 1 / (2 * kA2 * (kA2 - kB2)), kB = 1 / (2 * kB2 * (kB2 - kA2));
};

template <typename T>
struct KernelMap {
  static constexpr int kFrom = 3, kTo = kInputTile;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* g, Vector* u) {
    using Scale = KernelScale<T>;
    constexpr T a = kWinogradA, b = kWinogradB;
    const Vector even_a = (g[0] + g[2] * (a * a)) * Scale::kA, odd_a = g[1] * (a * Scale::kA);
    const Vector even_b = (g[0] + g[2] * (b * b)) * Scale::kB, odd_b = g[1] * (b * Scale::kB);
    u[0] = g[0] * Scale::kZero;
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
  }
};

// The transpose of KernelMap.
template <typename T>
struct KernelAdjointMap {
  static constexpr int kFrom = kInputTile, kTo = 3;
  template <typename Vector>
  static M2O_INLINE void run(const Vector* u, Vector* g) {
    using Scale = KernelScale<T>;
    constexpr T a = kWinogradA, b = kWinogradB;
    const Vector sum_a = (u[1] + u[2]) * Scale::kA, difference_a = (u[1] - u[2]) * Scale::kA;
    const Vector sum_b = (u[3] + u[4]) * Scale::kB, difference_b = (u[3] - u[4]) * Scale::kB;
    g[0] = u[0] * Scale::kZero + sum_a + sum_b;
    g[1] = difference_a * a + difference_b * b;
    g[2] = sum_a * (a * a) + sum_b * (b * b) + u[5];
  }
};

// The map along columns, then along rows: get(row, column) of a square of kFrom vectors a side, put(row, column,
// vector) of one of kTo.
template <typename Map, typename Vector, typename Get, typename Put>
M2O_INLINE void map_square(const Get& get, const Put& put) {
  Vector between[Map::kTo][Map::kFrom];
  M2O_UNROLLED for (int column = 0; column < Map::kFrom; ++column) {
    Vector from[Map::kFrom], to[Map::kTo];
    M2O_UNROLLED for (int row = 0; row < Map::kFrom; ++row) { from[row] = get(row, column); }
    Map::run(from, to);
    M2O_UNROLLED for (int row = 0; row < Map::kTo; ++row) { between[row][column] = to[row]; }
  }
  M2O_UNROLLED for (int row = 0; row < Map::kTo; ++row) {
    Vector to[Map::kTo];
    Map::run(between[row], to);
    M2O_UNROLLED for (int column = 0; column < Map::kTo; ++column) { put(row, column, to[column]); }
  }
}

}  // namespace m2o_fast
