"""Puts wrong lines into the kernels, one at a time, and sees that the tests notice; see README.md beside this file.

python tests/ops/mutants/run.py [FAMILY ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent.parent
EMULATED = Path("build", "cuda-emulation")


def main() -> int:
    """Runs all mutants of the families that are named, or of all; the exit code is 1 if one survived."""
    families = sorted(path.stem for path in FOLDER.glob("*.json"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(families)}; default: all")
    chosen = parser.parse_args().families or families
    if unknown := set(chosen) - set(families):
        parser.error(f"no such family: {', '.join(sorted(unknown))}; there are {', '.join(families)}")
    mutants = [mutant for family in chosen for mutant in json.loads((FOLDER / f"{family}.json").read_text())]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_sources(Path(folder) / "m2o")
        for number, mutant in enumerate(mutants, 1):
            killed = try_mutant(copy, mutant)
            survived += not killed
            words = (mutant["new"].strip() or f"without {mutant['old'].strip()}").splitlines()[0]
            print(
                f"{number}/{len(mutants)} {'killed' if killed else 'SURVIVED'}: {mutant['file']}: {words}", flush=True
            )
    print(f"{len(mutants) - survived} of {len(mutants)} mutants killed")
    return 1 if survived else 0


def copy_sources(to: Path) -> Path:
    """The project without what was built from it, but with emulated kernels, whose names say what they are built of."""
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__")
    copy = Path(shutil.copytree(ROOT, to, ignore=ignored))
    if (ROOT / EMULATED).is_dir():
        shutil.copytree(ROOT / EMULATED, copy / EMULATED)
    return copy


def build(copy: Path) -> None:
    """Builds, the second time only what changed."""
    native = copy / "build" / "native"
    if not native.exists():
        options = [f"-DPython_EXECUTABLE={sys.executable}", f"-DM2O_OUTPUT_DIR={copy / 'm2o_fast'}", "-DM2O_CUDA=0"]
        quiet("cmake", "-S", str(copy), "-B", str(native), "-G", "Ninja", *options)
    quiet("cmake", "--build", str(native))


def quiet(*command: str) -> None:
    """Runs a command; prints its output only if it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}")


def try_mutant(copy: Path, mutant: dict[str, str]) -> bool:
    """Whether the tests fail with the wrong line in place. It is taken out again."""
    path = copy / mutant["file"]
    right = path.read_text()
    if right.count(mutant["old"]) != 1:
        raise SystemExit(f"{mutant['file']} must hold this exactly once, but does {right.count(mutant['old'])} times:\n"
                         f"{mutant['old']}")  # fmt: skip
    path.write_text(right.replace(mutant["old"], mutant["new"]))
    try:
        if "cuda_emulation" not in mutant["tests"]:  # those build what they run
            build(copy)  # what is compiled of this file, and of the one before, which is right again
        return not passes(copy, mutant["tests"])
    finally:
        path.write_text(right)


def passes(copy: Path, tests: str) -> bool:
    """Whether the tests pass. A crash (code below 0) is a failure; other codes than 0 and 1 are errors of the list."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
    done = subprocess.run(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode > 1 or "NotBuilt: " in done.stdout:  # what does not compile shows nothing
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
