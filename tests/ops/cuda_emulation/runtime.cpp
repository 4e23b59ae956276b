// The CUDA runtime's functions for emulated devices, and the list of what was launched. Compiled without a sanitizer's
// instrumentation.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "emulation.h"

namespace emulation {
namespace {

// Their names stand in emulated.py. Nothing of a device ever changes, so code under test may remember it.
constexpr Device kDevices[] = {
    {132, 232448, 9, 8, 90}, {108, 166912, 8, 1, 80}, {16, 232448, 9, 2, 90},
    {132, 232448, 9, 8, 80}, {1, 232448, 9, 8, 90},
};
constexpr int kDeviceCount = sizeof(kDevices) / sizeof(kDevices[0]);
int device = 0;
cudaError_t last_error = cudaSuccess;
std::map<std::pair<const void*, int>, int> asked_for;

// What is registered while a library is loaded needs these before they would be initialised.
std::set<std::string>& kernels() {
  static std::set<std::string> names;
  return names;
}
std::set<std::string> launches;
std::string route;

}  // namespace

const Device& current_device() { return kDevices[device]; }

size_t most_shared_bytes(const void* kernel) {
  const auto found = asked_for.find({kernel, device});
  return found == asked_for.end() ? 0 : size_t(found->second);
}

void remember(cudaError_t error) { last_error = error; }

bool add_kernel(const char* name) { return kernels().insert(name).second; }

void note_route(const char* words) { route += std::string(words) + "; "; }

void note_launch(const char* name) { launches.insert(std::string(name) + "\t" + std::exchange(route, {})); }

}  // namespace emulation

using namespace emulation;

extern "C" {

// Every kernel that is there, then every kernel that was launched and by which routes: a line each.
const char* emulation_launches() {
  static std::string lines;
  lines.clear();
  for (const std::string& name : kernels()) {
    lines += name + "\n";
  }
  for (const std::string& launch : launches) {
    lines += launch + "\n";
  }
  return lines.c_str();
}

cudaError_t cudaSetDevice(int number) {
  if (number < 0 || number >= kDeviceCount) {
    return cudaErrorInvalidDevice;
  }
  device = number;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* number) {
  *number = device;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  static char words[64];
  snprintf(words, sizeof(words), "CUDA error %d", int(error));
  return words;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  const Device& asked = kDevices[number];
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = asked.multiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = asked.shared_bytes;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = asked.major;
      break;
    default:
      die(("no emulated device knows attribute " + std::to_string(attribute)).c_str());
  }
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > current_device().shared_bytes) {
      remember(cudaErrorInvalidValue);
      return cudaErrorInvalidValue;
    }
    asked_for[{kernel, device}] = value;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->ptxVersion = attributes->binaryVersion = current_device().code;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* kernel, const cudaLaunchConfig_t* configuration) {
  const bool too_much = configuration->dynamicSmemBytes > std::max<size_t>(48 * 1024, most_shared_bytes(kernel));
  *clusters = configuration->attrs[0].val.clusterDim.x <= unsigned(current_device().most_cluster);
  return too_much ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

// What the bindings ask torch for, where it has no CUDA: tensors are on the CPU.
int aoti_torch_get_current_cuda_stream(int, void** stream) {
  *stream = nullptr;
  return 0;
}

int aoti_torch_create_device_guard(int, void** guard) {
  *guard = nullptr;
  return 0;
}

int aoti_torch_delete_device_guard(void*) { return 0; }
}
