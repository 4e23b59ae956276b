"""What the doctor finds, and that it finds trouble."""

import json
import shutil
import sys
from collections import namedtuple

import pytest
import torch

from m2o_fast import ops
from m2o_fast.engine import doctor
from m2o_fast.engine.doctor import examine


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return examine(tmp_path_factory.mktemp("runs"))


def test_findings_are_json_and_complete(findings):
    assert json.loads(json.dumps(findings)) == findings
    assert findings["versions"]["torch"] == torch.__version__
    assert findings["versions"]["python"] == sys.version.split()[0]
    assert findings["devices"][0]["name"] == "cpu"
    assert findings["operators"] == ops.backends()
    assert {place["name"] for place in findings["storage"]} >= {"runs", "data cache", "temporary files"}
    assert findings["problems"] == []


def test_every_kernel_that_is_there_is_tested_and_right(findings):
    tested = {(test["operator"], test["device"], test["backend"]) for test in findings["self_test"]}
    there = {
        (op, device, backend)
        for op in ("adain_act", "color_histogram")
        for device, facts in ops.backends()[op].items()
        for backend, available in facts["available"].items()
        if available and backend != "reference"
    }
    assert tested == there
    assert all(test["fault"] is None for test in findings["self_test"])
    assert findings["native"]["built"] == (ops.build_info() is not None)


@pytest.fixture
def fake_kernel(monkeypatch):
    """Makes one operator answer wrongly, or raise, when a kernel is asked for."""

    def install(op, spoil):
        right = getattr(ops, op)

        def wrong(*arguments, backend=None):
            result = right(*arguments, backend="reference")
            return result if backend == "reference" else spoil(result)

        monkeypatch.setattr(ops, op, wrong)
        facts = {"chosen": "compiled", "available": {"compiled": True, "reference": True}, "why": "test"}
        monkeypatch.setattr(ops, "backends", lambda: {op: {"cpu": facts}})

    return install


def fail(result):
    raise RuntimeError("illegal instruction")


@pytest.mark.parametrize(
    ("op", "spoil", "hint"),
    [
        ("adain_act", lambda y: y, None),
        ("adain_act", lambda y: y * 1.0001, "output is off by"),
        ("adain_act", lambda y: y * float("nan"), "output is off by nan"),
        ("adain_act", lambda y: y.detach() + 0.999 * (y - y.detach()), "dx is off by"),
        ("adain_act", fail, "RuntimeError: illegal instruction"),
        ("color_histogram", lambda counts: counts, None),
        ("color_histogram", lambda counts: counts.roll(1), "counts are wrong"),
    ],
)
def test_a_wrong_kernel_is_a_problem(fake_kernel, tmp_path, op, spoil, hint):
    fake_kernel(op, spoil)
    found = examine(tmp_path)
    if hint is None:
        assert found["problems"] == []
    else:
        assert len(found["problems"]) == 1
        assert found["problems"][0].startswith(f"self-test of {op} (compiled, cpu) failed: ")
        assert hint in found["problems"][0]


def test_a_forced_backend_that_is_missing_is_a_problem(monkeypatch, tmp_path):
    facts = {"chosen": "triton", "available": {"triton": False, "reference": True}, "why": "demanded, but not there"}
    monkeypatch.setattr(ops, "backends", lambda: {"adain_act": {"cpu": facts}})
    assert examine(tmp_path)["problems"] == ["adain_act on cpu: demanded, but not there"]


def test_a_full_disk_is_a_problem(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 20))
    problems = examine(tmp_path / "not" / "yet")["problems"]
    assert f"runs: only 0.0 GiB are free at {tmp_path}; make room" in problems


def test_a_folder_that_is_not_writable_is_a_problem(monkeypatch, tmp_path):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert f"runs: {tmp_path} is not writable: Permission denied" in examine(tmp_path)["problems"]


def test_a_torchvision_for_another_torch_is_told(monkeypatch, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    found = examine(tmp_path)
    assert found["problems"] == []
    assert any("torchvision does not fit torch" in text and "nms does not exist" in text for text in found["warnings"])
