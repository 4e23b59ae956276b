#!/usr/bin/env bash
# Everything that needs a GPU, in one command on a CUDA machine without network:
#
#     bash benchmarks/gpu_suite.sh [FOLDER]        # default: build/gpu
#
# Needs nvcc, compute-sanitizer, cmake and ninja, and a python with torch (CUDA), triton, pybind11, pytest,
# pytest-benchmark and hypothesis. Each part has its own time limit, so that a late one cannot cost the results of the
# earlier ones; the limits add up to less than 9 minutes. FOLDER holds a log per part, bench.json, train-step-*.json, and
# summary.txt with how each part ended. Afterwards: python benchmarks/publish.py FOLDER/bench.json and
# python benchmarks/profile_step.py --page (both need matplotlib).
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
mkdir -p "${1:-build/gpu}"
OUT="$(cd "${1:-build/gpu}" && pwd)"
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
: >"$OUT/summary.txt"
failed=0

# part NAME SECONDS COMMAND...: runs it under a limit, keeps its output, notes how it ended.
part() {
  local name="$1" limit="$2" start status
  shift 2
  start=$(date +%s)
  timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  [ "$status" -eq 0 ] || failed=1
  echo "$name: exit code $status after $(($(date +%s) - start)) s of at most $limit s" | tee -a "$OUT/summary.txt"
  tail -n 3 "$OUT/$name.log"
}

versions() {
  nvidia-smi && nvcc --version && git describe --always --dirty
  "$PYTHON" -c 'import sys, torch, triton; print(sys.version, torch.__version__, triton.__version__)'
}

build() {
  "$PYTHON" -c 'import torch; print("".join(map(str, torch.cuda.get_device_capability())))' >"$OUT/architecture"
  cmake -S . -B build/gpu-native -G Ninja -DM2O_CUDA=1 -DM2O_OUTPUT_DIR="$PWD/m2o_fast" \
    -DM2O_CUDA_ARCH_LIST="$(sed -E 's/(.)$/.\1/' "$OUT/architecture")" -DPython_EXECUTABLE="$(command -v "$PYTHON")" &&
    cmake --build build/gpu-native
}
export -f versions build
export OUT PYTHON

part versions 20 bash -c versions
part build 150 bash -c build
export M2O_REQUIRE_EXT=1 # from here on nothing may fall back in silence
part op_tests 120 "$PYTHON" -m pytest -q -p no:cacheprovider tests/ops tests/engine/test_graphs.py -k "cuda or gpu" -m "not slow"
part memcheck 45 compute-sanitizer --tool memcheck --error-exitcode 9 "$PYTHON" benchmarks/short_op_run.py
part racecheck 45 compute-sanitizer --tool racecheck --error-exitcode 9 "$PYTHON" benchmarks/short_op_run.py
part benchmarks 70 "$PYTHON" -m pytest benchmarks --ignore=benchmarks/test_train_step.py --quick -q \
  --benchmark-json="$OUT/bench.json"
# every precision, as a graph and not, with peak memory
part train_step 85 "$PYTHON" benchmarks/profile_step.py --rounds 5 --no-page
cp benchmarks/results/train-step-*.json "$OUT"
if [ "$failed" -eq 0 ]; then echo "all parts passed"; else echo "some parts failed"; fi | tee -a "$OUT/summary.txt"
exit "$failed"
