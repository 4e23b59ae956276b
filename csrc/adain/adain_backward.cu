// adain_backward as adain_cuda.h has it; its kernels without a change of size.
#include "adain_backward.cuh"

namespace m2o_fast {

const char* adain_backward_workspace(const AdainArguments& arguments, size_t& bytes) {
  return arguments.resample == Resample::none ? ask_workspace<Backward, Resample::none>(arguments, bytes)
                                              : adain_backward_resampled_workspace(arguments, bytes);
}

const char* adain_backward(const AdainArguments& arguments, void* stream) {
  return arguments.resample == Resample::none ? run<Backward, Resample::none>(arguments, stream)
                                              : adain_backward_resampled(arguments, stream);
}

}  // namespace m2o_fast
