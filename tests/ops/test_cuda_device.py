"""What csrc/cuda_device.cuh keeps of a GPU: host code, so plain C++ can try it, with a stand-in for CUDA's header."""

from __future__ import annotations

from pathlib import Path

from plan_program import counts_of, needs_compiler

RUNTIME = r"""
#pragma once

enum cudaError_t { cudaSuccess, cudaErrorUnknown };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrComputeCapabilityMajor
};

inline thread_local int current_device = 0;
inline int questions = 0, refused = -1;  // the number of the question that fails

inline cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  *value = 100 * device + attribute;
  return questions++ == refused ? cudaErrorUnknown : cudaSuccess;
}
"""

PROGRAM = r"""
#include "cuda_device.cuh"

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

using namespace m2o_fast;

void require(bool condition, int line) {
  if (!condition) {
    std::printf("line %d: %d questions\n", line, questions);
    std::exit(1);
  }
}
#define REQUIRE(condition) require(condition, __LINE__)

int main() {
  for (int failure : {0, 1, 2}) {  // one question after the other is refused: nothing is kept of the answers before it
    questions = 0, refused = failure;
    DeviceFacts facts{};
    REQUIRE(ask_device(facts) == cudaErrorUnknown && questions == failure + 1);
  }
  questions = 0, refused = -1;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([i] {
      current_device = i % 2 ? 9 : 3;
      DeviceFacts facts{};
      for (int again = 0; again < 1000; ++again) {
        REQUIRE(ask_device(facts) == cudaSuccess);
        REQUIRE(facts.multiprocessors == 100 * current_device && facts.shared_bytes == 100 * current_device + 1);
        REQUIRE(facts.major == 100 * current_device + 2);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  std::printf("%d\n", questions);
}
"""


@needs_compiler
def test_facts_are_asked_once_per_device_and_failures_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "cuda_runtime.h").write_text(RUNTIME)
    assert counts_of(PROGRAM, tmp_path) == [2 * 3]  # two devices, three facts
