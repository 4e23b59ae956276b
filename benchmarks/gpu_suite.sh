#!/usr/bin/env bash
# Everything that needs a GPU, in one command that is limited to ten minutes, on a CUDA machine without network:
#
#     bash benchmarks/gpu_suite.sh [--dry-run] [FOLDER]        # default: build/gpu
#
# Needs nvcc, compute-sanitizer, cmake and ninja, and a python with torch (CUDA), triton, numpy, pybind11, pytest,
# pytest-xdist, hypothesis and what m2o_fast itself imports. What of it is missing comes from wheels, if M2O_WHEELS
# names a folder that holds them, with what they need; they go before what the python has. With a network, for
# Python 3.12:
#
#     pip download --only-binary=:all: --python-version 3.12 -d WHEELS \
#       pydantic typer safetensors pyyaml pillow hypothesis
#
# FOLDER then holds two files: summary.txt, how each part ended, and results.tar.gz, the log of every part and what it
# measured, refreshed after each part. A part that is out of time is interrupted as by Ctrl-C, so that it can report;
# what measures writes after each measurement. No part starts that M2O_SUITE_SECONDS (585) leaves no time for.
# --dry-run starts every part with as little work as it can do and needs no GPU: a test of this script. There, a part
# may take M2O_DRY_SECONDS (600), as a busy machine takes its time.
# Afterwards, from the archive: copy gpu-sizes.json to benchmarks/results/NAME.json and train-step-*.json beside it,
# then python benchmarks/publish.py and python benchmarks/profile_step.py --page (both need matplotlib).
set -uo pipefail
few=() collect=() dry_seconds=
if [ "${1:-}" = --dry-run ]; then
  few=(--few) collect=(--collect-only -qq) dry_seconds="${M2O_DRY_SECONDS:-600}"
  export OMP_NUM_THREADS=1
  shift
fi
root="$(cd "$(dirname "$0")/.." && pwd)"
OUT="$(realpath -m -- "${1:-$root/build/gpu}")"
PARTS="$(mktemp -d -t gpu-suite-XXXXXX)"
PACKAGES="$PARTS.packages"
PYTHON="$(realpath -s -- "$(command -v "${PYTHON:-python3}")")" # a link of a virtual environment stays one
[ -z "${M2O_WHEELS:-}" ] || M2O_WHEELS="$(realpath -m -- "$M2O_WHEELS")"
cd "$root" && mkdir -p "$OUT" || exit
export OUT PARTS PACKAGES PYTHON PYTHONUNBUFFERED=1 M2O_WHEELS
export PATH="$PACKAGES/bin:$PATH" PYTHONPATH="$root:$PACKAGES${PYTHONPATH:+:$PYTHONPATH}"
total="${M2O_SUITE_SECONDS:-585}" passed=0 unfinished=0 failed=0 job= watch=
: >"$OUT/summary.txt"

say() { echo "$*" | tee -a "$OUT/summary.txt"; }

pack() {
  cp "$OUT/summary.txt" "$PARTS" &&
    tar -czf "$OUT/.results" -C "$PARTS" . && mv "$OUT/.results" "$OUT/results.tar.gz" # whole at any time
}

# limited SECONDS COMMAND...: interrupts the command after so many seconds, once, and kills it 20 s later.
limited() {
  local status
  set -m # a process group each
  "${@:2}" </dev/null &
  job=$!
  (sleep "$1" && kill -INT "$job" && sleep 20 && kill -KILL -- "-$job") 2>/dev/null &
  watch=$!
  wait "$job"
  status=$?
  { kill -KILL -- "-$job" "-$watch"; wait "$watch"; } 2>/dev/null # and what the command left behind
  return "$status"
}

# part NAME SECONDS COMMAND...: runs it under a limit, keeps its output, notes how it ended.
part() {
  local name="$1" limit="${dry_seconds:-$2}" start=$SECONDS left status ended counted
  shift 2
  left=$((total - SECONDS - 24)) # 24: to end and to pack
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 5 ]; then
    unfinished=$((unfinished + 1))
    say "$name: no time left"
    return 1
  fi
  LIMIT=$limit limited "$limit" "$@" >"$PARTS/$name.log" 2>&1
  status=$?
  if [ "$status" -eq 0 ]; then
    ended="passed" passed=$((passed + 1))
  elif [ "$status" -eq 124 ] || [ $((SECONDS - start)) -ge "$limit" ]; then # 124: it ended itself
    ended="out of time" unfinished=$((unfinished + 1))
  else
    ended="exit code $status" failed=$((failed + 1))
  fi
  counted="$(grep -E '^[0-9]+ of [0-9]+ calls' "$PARTS/$name.log")"
  say "$name: $ended after $((SECONDS - start)) s of at most $limit s${counted:+, $counted}"
  tail -n 3 "$PARTS/$name.log"
  pack
  return "$status"
}

finish() {
  say "$passed passed, $unfinished out of time, $failed failed"
  rm -rf "$PACKAGES"
  if pack; then rm -rf "$PARTS"; else failed=1 && echo "not packed, what there is lies in $PARTS" >&2; fi
  exit $((unfinished + failed > 0))
}

trap 'kill -KILL -- "-$job" "-$watch" 2>/dev/null; say "ended from outside"; failed=1; finish' HUP INT TERM

# All that M2O_WHEELS holds: of what this python has, the version may be too old for the others.
packages() {
  find "$M2O_WHEELS" -name '*.whl' -printf '%f\n' | sed 's/-.*//' | sort -u |
    xargs "$PYTHON" -m pip install --no-index --no-deps --find-links "$M2O_WHEELS" --target "$PACKAGES"
}

versions() {
  nvidia-smi
  nvcc --version
  git describe --always --dirty
  nproc
  "$PYTHON" --version && "$PYTHON" -m pip list
}

build() {
  local capability
  capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)" &&
    cmake -S . -B build/gpu-native -G Ninja -DM2O_CUDA=1 -DM2O_OUTPUT_DIR="$PWD/m2o_fast" \
      -DM2O_CUDA_ARCH_LIST="$capability" -DPython_EXECUTABLE="$PYTHON" &&
    cmake --build build/gpu-native
}

# The short run under a tool of compute-sanitizer: our kernels only, every tensor an allocation of its own. It ends by
# itself before its limit, for an interrupted sanitizer does not report; then its exit code is 124.
sanitize() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --kernel-name kernel_substring=m2o_fast \
    --error-exitcode 9 "$PYTHON" benchmarks/short_op_run.py --seconds "$((LIMIT * 2 / 3))" "${@:2}"
}
export -f packages versions build sanitize

# tests NAME SECONDS EXPRESSION PATH...
tests() {
  part "$1" "$2" "$PYTHON" -m pytest -v -n 12 -p no:cacheprovider --tb=short --junitxml="$PARTS/$1.xml" \
    -m "not slow" -k "$3" "${collect[@]}" "${@:4}"
}

[ -z "${M2O_WHEELS:-}" ] || part packages 20 bash -c packages
part versions 10 bash -c versions
part build 120 bash -c build || finish
export M2O_REQUIRE_EXT=1 # from here on nothing may fall back in silence
part short_run 30 "$PYTHON" benchmarks/short_op_run.py "${few[@]}"
tests op_tests 60 "(compiled-cuda or gpu) and not triton" tests/ops # not what merely has cuda in its file's name
part gpu_sizes 90 "$PYTHON" benchmarks/gpu_sizes.py "$PARTS/gpu-sizes.json" "${few[@]}"
part memcheck 60 bash -c 'sanitize memcheck "$@"' - "${few[@]}"
tests triton_tests 90 "triton and not cpu" tests/ops
tests graphs 25 cuda_graphs_give tests/engine/test_graphs.py
# every precision, as a graph and not
part train_step 75 "$PYTHON" benchmarks/profile_step.py --case gpu32 gpu256 --rounds 3 --out "$PARTS" --no-page \
  "${few[@]}"
part racecheck 600 bash -c 'sanitize racecheck "$@"' - "${few[@]}"
finish
