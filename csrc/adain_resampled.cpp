// The kernels of adain_resampled.h, for every storage type and instruction set.
#include "adain_resampled.h"

#include "adain_planes_resampled.h"
#include "adain_rows_resampled.h"

namespace m2o_fast {

#define M2O_ADAIN_RESAMPLED(T)                                                                                   \
  M2O_CLONES void run_forward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end) {                  \
    if (p.resample == Resample::up2) {                                                                           \
      forward_planes<Up2PlaneWriter<T>>(p, begin, end);                                                          \
    } else {                                                                                                     \
      forward_planes<Down2PlaneWriter<T>>(p, begin, end);                                                        \
    }                                                                                                            \
  }                                                                                                              \
  M2O_CLONES void run_backward_resampled(const AdainProblem<T>& p, int64_t begin, int64_t end) {                 \
    backward_planes<ResampledPlaneGradient<T>>(p, begin, end);                                                   \
  }                                                                                                              \
  M2O_CLONES void run_forward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) {  \
    forward_rows<ResampledRowWriter<T>>(p, range, scratch);                                                      \
  }                                                                                                              \
  M2O_CLONES void run_backward_resampled(const AdainProblem<T>& p, ChannelRange range, RowScratch<T>& scratch) { \
    backward_rows<ResampledRowGradient<T>>(p, range, scratch);                                                   \
  }
M2O_ADAIN_RESAMPLED(float)
M2O_ADAIN_RESAMPLED(double)
M2O_ADAIN_RESAMPLED(BFloat16)
M2O_ADAIN_RESAMPLED(Half)

}  // namespace m2o_fast
