// The Python module m2o_fast._C. Importing it registers the CPU operators (their static initialisers run); what it
// offers itself is facts about the build and the entry points that need no torch tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "common.h"

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = compiler();
  info["flags"] = M2O_CXX_FLAGS;
  info["build_type"] = M2O_BUILD_TYPE;
  info["simd"] = M2O_SIMD;
  info["wide_simd"] = M2O_WIDE_SIMD;
  info["torch_built_against"] = M2O_TORCH_VERSION;
  info["torch_minimum"] =
      std::to_string(TORCH_TARGET_VERSION >> 56) + "." + std::to_string((TORCH_TARGET_VERSION >> 48) & 0xff);
  info["cuda_version"] = M2O_CUDA_VERSION;
  info["cuda_archs"] = M2O_CUDA_ARCHS;
  return info;
}

}  // namespace

namespace m2o_fast {
void register_histogram(py::module_& module);  // histogram_bindings.cpp
bool use_wide_vectors(bool wanted);            // winograd.cpp
}  // namespace m2o_fast

PYBIND11_MODULE(_C, m) {
  if (!m2o_fast::runs_here()) {
    throw py::import_error("this CPU has no AVX2, without which only the reference in torch runs");
  }
  m.doc() = "Native part of m2o_fast: CPU operators (registered on import) and facts about the build.";
  m.def("build_info", &build_info,
        "Facts about this build: compiler, flags, build_type, simd, wide_simd (of products of\n"
        "matrices, where the CPU has it), torch_built_against, torch_minimum,\n"
        "cuda_version and cuda_archs (both empty if m2o_fast/_cuda was not built along).");
  m.def("_use_wide_vectors", &m2o_fast::use_wide_vectors, py::arg("wanted"),
        "For tests: products of matrices use AVX-512 from now on if it is wanted and there; says whether they do.");
  m2o_fast::register_histogram(m);
}
