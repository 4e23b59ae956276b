// adain_forward as adain_cuda.h has it; its kernels without a change of size.
#include "adain_forward.cuh"

namespace m2o_fast {

const char* adain_forward(const AdainArguments& arguments, const Workspace& workspace, void* stream) {
  return arguments.resample == Resample::none ? run<Forward, Resample::none>(arguments, workspace, stream)
                                              : adain_forward_resampled(arguments, workspace, stream);
}

}  // namespace m2o_fast
