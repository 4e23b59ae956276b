// The adain kernels whose y is larger or smaller than x. They are compiled in a file of their own, adain_resampled.cpp,
// so that those without resampling stay what they are.
#pragma once

#include "adain_planes.h"
#include "adain_rows.h"

namespace m2o_fast {

#define M2O_ADAIN_RESAMPLED(T)                                                                      \
  void run_forward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end);                 \
  void run_backward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end);                \
  void run_forward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch); \
  void run_backward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch);
M2O_ADAIN_RESAMPLED(float)
M2O_ADAIN_RESAMPLED(double)
M2O_ADAIN_RESAMPLED(BFloat16)
M2O_ADAIN_RESAMPLED(Half)
#undef M2O_ADAIN_RESAMPLED

}  // namespace m2o_fast
