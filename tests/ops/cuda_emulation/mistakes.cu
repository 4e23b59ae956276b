// Kernels with one mistake each, for a block of 64 threads, and one without. The program runs the one that is named.
#include <cstdio>
#include <cstdlib>

namespace {

constexpr unsigned kThreads = 64;

__global__ void none(int* out) {
  __shared__ int numbers[kThreads];
  numbers[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = numbers[kThreads - 1 - threadIdx.x];
}

__global__ void missing_barrier(int* out) {
  __shared__ int numbers[kThreads];
  numbers[threadIdx.x] = 1;
  out[threadIdx.x] = numbers[kThreads - 1 - threadIdx.x];
}

__global__ void beyond_shared_variable(int* out) {
  __shared__ int numbers[kThreads];
  numbers[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = numbers[threadIdx.x + 1];
}

__global__ void beyond_dynamic_shared(int* out) {
  extern __shared__ int numbers[];
  out[threadIdx.x] = numbers[threadIdx.x];
}

__global__ void beyond_output(int* out) { out[threadIdx.x + 1] = 1; }

__global__ void unaligned_vector(int* out) { *reinterpret_cast<int4*>(out + 1) = {1, 1, 1, 1}; }

__global__ void divergent_barrier(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void missing_lane(int* out) {
  if (threadIdx.x != 5) {
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
  }
}

__global__ void deadlock(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
  }
  out[threadIdx.x] = 1;
}

__global__ void left_cluster(int* out) {
  extern __shared__ int numbers[];
  numbers[threadIdx.x % 2] = 1;
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
  if (blockIdx.x == 0) {
    __syncthreads();
    out[threadIdx.x] = *static_cast<int*>(__cluster_map_shared_rank(numbers, 1));
  }
}

__global__ void __launch_bounds__(32) too_many_threads(int* out) { out[threadIdx.x] = 1; }

__global__ void too_much_shared(int* out) { out[threadIdx.x] = 1; }

struct Mistake {
  const char* name;
  void (*kernel)(int*);
  unsigned cluster;
  size_t shared_bytes;
};

constexpr Mistake kMistakes[] = {
    {"none", none, 1, 0},
    {"missing_barrier", missing_barrier, 1, 0},
    {"beyond_shared_variable", beyond_shared_variable, 1, 0},
    {"beyond_dynamic_shared", beyond_dynamic_shared, 1, 4 * kThreads - 4},
    {"beyond_output", beyond_output, 1, 0},
    {"unaligned_vector", unaligned_vector, 1, 0},
    {"divergent_barrier", divergent_barrier, 1, 0},
    {"missing_lane", missing_lane, 1, 0},
    {"deadlock", deadlock, 1, 0},
    {"left_cluster", left_cluster, 2, 8},
    {"too_many_threads", too_many_threads, 1, 0},
    {"too_much_shared", too_much_shared, 1, 48 * 1024 + 4},
};

}  // namespace

int main(int, char** arguments) {
  const auto* mistake = std::find_if(std::begin(kMistakes), std::end(kMistakes),
                                     [&](const Mistake& known) { return arguments[1] == std::string(known.name); });
  auto* out = static_cast<int*>(calloc(kThreads, sizeof(int)));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {mistake->cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(mistake->cluster);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = mistake->shared_bytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  const cudaError_t error = cudaLaunchKernelEx(&config, mistake->kernel, out);
  int sum = 0;
  for (unsigned i = 0; i < kThreads; ++i) {
    sum += out[i];
  }
  printf("error %d, sum %d\n", static_cast<int>(error), sum);
  free(out);
  return 0;
}
