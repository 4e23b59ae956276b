"""csrc/divisor.h divides as the machine does: host code, so plain C++ can try it."""

from __future__ import annotations

from pathlib import Path

from plan_program import counts_of, needs_compiler

PROGRAM = r"""
#include "divisor.h"

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>

using namespace m2o_fast;

int tried, exact;

void check(int64_t value, int64_t divisor) {
  const auto result = Divisor(divisor).divide(value);
  if (result.quotient != value / divisor || result.remainder != value % divisor) {
    std::printf("%ld / %ld gives %ld rest %ld\n", long(value), long(divisor), long(result.quotient),
                long(result.remainder));
    std::exit(1);
  }
  ++tried;
  exact += result.remainder == 0;
}

int main() {
  if (Divisor(0).quotient(5) != 5) {
    return 1;
  }
  check(5, 1);
  check(INT64_MAX, 1);
  std::mt19937_64 numbers(1);
  const auto number = [&] { return int64_t(numbers() >> (1 + numbers() % 63)); };  // of any length
  for (int i = 0; i < 100000; ++i) {
    const int64_t divisor = number() + 1, most = INT64_MAX / divisor * divisor;
    for (int64_t value : {number(), int64_t(0), divisor - 1, divisor, most - 1, most, INT64_MAX}) {
      check(value, divisor);
    }
    const int64_t power = int64_t(1) << i % 63;
    check(number(), power);
    check(number(), power - (power > 1));
    check(number(), power + (power < INT64_MAX));
  }
  std::printf("%d %d\n", tried, exact);
}
"""


@needs_compiler
def test_quotients_and_remainders_are_exact(tmp_path: Path) -> None:
    tried, exact = counts_of(PROGRAM, tmp_path)
    assert tried > exact > 0
