"""Turns CUDA C++ into what a host compiler understands after ``device_code.h``, and refuses what it does not know."""

from __future__ import annotations

import re

_KERNEL = re.compile(r"__global__\s+void\s+(?P<bounds>__launch_bounds__\()?")
_VARIABLE = re.compile(r"^( *)__shared__ (?P<type>[^;=]+?) (?P<name>\w+)(?P<sizes>\[[^;]+\])?;", re.MULTILINE)
_DYNAMIC = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(?P<type>[^;=]+?) (?P<name>\w+)\[\];")
_STORE = re.compile(r'asm volatile\("st\.global\.v4\.b32[^;]*?;" ::"l"\((?P<to>\w+)\)[^;]*\);')
_UNKNOWN = re.compile(r"<<<|__shared__|asm volatile\(\"[^\"]|cooperative_groups")
_USE = r"(?:return with_layout<[^;]*;|use\(\w+\{\}\);\s+break;|return use\(\w+\{\}\);)"
_CASE = re.compile(rf"case (?:ElementType|Pixel)::(\w+):\s+{_USE}")
_BINDING = "STABLE_TORCH_LIBRARY_IMPL(m2o_fast, CUDA, "


def translate(text: str) -> str:
    """A file of ``csrc`` as C++, line by line; the operators of a binding are registered for CPU tensors.

    Raises:
        ValueError: if something is left over that no rule here knows.
    """
    text = _enter_kernels(_spell_out_launches(text))
    text = _DYNAMIC.sub(r"auto* \g<name> = static_cast<\g<type>*>(emulation::dynamic_shared());", text)
    text = _VARIABLE.sub(_static_variable, text)
    text = _STORE.sub(r"emulation::store_16_bytes(\g<to>, bits);", text)
    text = text.replace(_BINDING, _BINDING.replace("CUDA", "CPU"))
    if left := _UNKNOWN.search(text):
        line = text.count("\n", 0, left.start()) + 1
        raise ValueError(f"line {line}: the emulation does not know {left[0]!r}; teach it to translate.py")
    return text


def without_other_dtypes(text: str, dtypes: str) -> str:
    """A dispatch, ``case ElementType::float32: ...``, with the cases of ``dtypes`` alone: with commas between.

    Kernels of a last type that has no case stay. Without names, all stay.
    """

    def kept(case: re.Match[str]) -> str:
        return case[0] if case[1] in dtypes.split(",") else "\n" * case[0].count("\n")

    return _CASE.sub(kept, text) if dtypes else text


def _behind(text: str, start: int) -> int:
    """The place behind the bracket that closes the one at ``start``."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at + 1
    raise ValueError(f"a bracket is never closed: {text[start : start + 40]!r}")


def _spell_out_launches(text: str) -> str:
    """``kernel<<<grid, block>>>(x)`` as a call of a function that runs the kernel once per thread."""
    while (at := text.find("<<<")) >= 0:
        name = re.search(r"[\w:]+(<[^;{}]*>)?$", text[:at])
        if name is None:
            raise ValueError(f"no kernel before {text[at : at + 40]!r}")
        close = text.index(">>>", at)
        end = _behind(text, close + 3)
        arguments = text[close + 4 : end - 1]
        again = " ".join(arguments.split())
        call = f"emulation::launch({{{text[at + 3 : close]}}}, [&] {{ {name[0]}({arguments}); }}, {again})"
        text = text[: name.start()] + call + text[end:]
    return text


def _enter_kernels(text: str) -> str:
    """Kernels say first who they are, with their template arguments, and how many threads they may have."""
    at = 0
    while found := _KERNEL.search(text, at):
        at, bounds = found.end(), ""
        if found["bounds"]:
            at = _behind(text, at - 1)
            bounds = text[found.end() : at - 1]
        at = text.index("{", _behind(text, text.index("(", at))) + 1
        entrance = (
            " struct Here { static const char* name() { return __PRETTY_FUNCTION__; } };"
            f" emulation::enter_kernel<Here>(emulation::most_threads({bounds}));"
        )
        text = text[:at] + entrance + text[at:]
    return text


def _static_variable(found: re.Match[str]) -> str:
    indent, kind, name, sizes = found.groups("")
    memory = f"emulation::static_shared(&key_of_{name}, sizeof(Memory_of_{name}))"
    return (
        f"{indent}static const char key_of_{name} = 0; struct Memory_of_{name} {{ {kind} value{sizes}; }};"
        f" auto& {name} = static_cast<Memory_of_{name}*>({memory})->value;"
    )
