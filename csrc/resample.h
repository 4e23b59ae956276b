// How an operator changes the size of planes.
#pragma once

#include <cstdint>

namespace m2o_fast {

// The numbers are those of the argument `resample` of the operators: RESAMPLES in m2o_fast/ops/_resampling.py.
enum class Resample : int64_t {
  none,
  up2,    // every number becomes a square of 2 x 2
  down2,  // every square of 2 x 2 becomes its mean
};

}  // namespace m2o_fast
