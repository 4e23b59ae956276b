// How adain_act changes the size of its planes behind the activation.
#pragma once

#include <cstdint>

namespace m2o_fast {

// The numbers are those of the argument `resample` of the operators (RESAMPLES in m2o_fast/ops/adain.py).
enum class Resample : int64_t {
  none,
  up2,    // every number is written to a square of 2 x 2
  down2,  // the mean of every square of 2 x 2 is written
};

}  // namespace m2o_fast
