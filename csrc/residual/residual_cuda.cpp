// residual_merge and leaky_relu_down2 on the GPU: the operators' CUDA side. The kernels are in residual.cu; the
// definitions are the references in m2o_fast/ops/residual.py.
#include "residual_cuda.h"

#include "residual_bindings.h"
#include "tensor_cuda.h"

namespace m2o_fast {
namespace {

struct Cuda {
  static void run(const QuadCall& call, const Tensor& x) {
    const DeviceGuard guard(x.get_device_index());
    check(run_quads(call, current_stream(x)));
  }
  static void run(const MergeCall& call, const Tensor& x) {
    const DeviceGuard guard(x.get_device_index());
    check(run_merge(call, current_stream(x)));
  }

 private:
  static void check(const char* error) { require(error == nullptr, "m2o_fast residual operators", "CUDA: ", error); }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CUDA, m) { M2O_REGISTER_RESIDUAL(m, Cuda); }

}  // namespace m2o_fast
