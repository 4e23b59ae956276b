// adain_forward as adain_cuda.h has it; its kernels without a change of size.
#include "adain_forward.cuh"

namespace m2o_fast {

const char* adain_forward_workspace(const AdainArguments& arguments, size_t& bytes) {
  return arguments.resample == Resample::none ? ask_workspace<Forward, Resample::none>(arguments, bytes)
                                              : adain_forward_resampled_workspace(arguments, bytes);
}

const char* adain_forward(const AdainArguments& arguments, void* stream) {
  return arguments.resample == Resample::none ? run<Forward, Resample::none>(arguments, stream)
                                              : adain_forward_resampled(arguments, stream);
}

}  // namespace m2o_fast
