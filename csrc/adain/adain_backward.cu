// adain_backward as adain_cuda.h has it; its kernels without a change of size.
#include "adain_backward.cuh"

namespace m2o_fast {

const char* adain_backward(const AdainArguments& arguments, const Workspace& workspace, void* stream) {
  return arguments.resample == Resample::none ? run<Backward, Resample::none>(arguments, workspace, stream)
                                              : adain_backward_resampled(arguments, workspace, stream);
}

}  // namespace m2o_fast
