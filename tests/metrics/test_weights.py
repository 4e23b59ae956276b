"""Weight files: found, checked, fetched and read without running anything."""

import hashlib
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from m2o_fast.errors import UserError
from m2o_fast.metrics import weights
from m2o_fast.metrics.weights import PUBLISHED, Published, fill, find_weights, read_weights

CONTENT = b"the published bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """net.pth, published in the folder "far"; the cache is the folder "cache", the current folder is empty."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "net.pth").write_bytes(CONTENT)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = Published((tmp_path / "far" / "net.pth").as_uri(), SHA256)
    monkeypatch.setattr(weights, "PUBLISHED", {"net.pth": known})
    return known


def test_published_files_bear_the_first_digits_of_their_hash():
    for name, known in PUBLISHED.items():
        assert known.url.endswith(f"/{name}") and len(known.sha256) in (8, 64)
        if "-" in name:
            assert known.sha256.startswith(name.rsplit("-", 1)[1].removesuffix(".pth"))
        assert set(known.sha256) <= set("0123456789abcdef")


def test_a_missing_file_is_announced_with_its_address(published, tmp_path):
    with pytest.raises(UserError) as caught:
        find_weights("net.pth")
    message = str(caught.value)
    assert all(part in message for part in (published.url, SHA256, "--download", str(tmp_path / "cache")))
    assert "\n" not in message
    with pytest.raises(UserError, match="other.pth: no such file; .* are net.pth"):
        find_weights("other.pth", download=True)
    assert not (tmp_path / "cache").exists()


def test_fetching_puts_a_bare_name_into_the_cache_and_a_path_where_it_says(published, tmp_path):
    found, digest = find_weights("net.pth", download=True)
    assert found == tmp_path / "cache" / "m2o_fast" / "weights" / "net.pth"
    assert found.read_bytes() == CONTENT and digest == SHA256
    assert find_weights("net.pth") == (found, SHA256)  # nothing is fetched from here on
    elsewhere = tmp_path / "deep" / "net.pth"
    assert find_weights(str(elsewhere), download=True)[0] == elsewhere
    assert elsewhere.read_bytes() == CONTENT


def test_wrong_content_is_not_kept(published, tmp_path):
    (tmp_path / "far" / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=f"but {SHA256} is expected; it was not kept"):
        find_weights("net.pth", download=True)
    assert os.listdir(tmp_path / "cache" / "m2o_fast" / "weights") == []
    (tmp_path / "far" / "net.pth").unlink()
    with pytest.raises(UserError, match="cannot fetch file:.*put the file at .* by hand"):
        find_weights("net.pth", download=True)


def test_a_file_with_a_published_name_must_have_the_published_content(published, tmp_path):
    (tmp_path / "here" / "net.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match=f"published file's is {SHA256}; delete it and get file:"):
        find_weights("net.pth")


def test_of_some_files_only_the_first_digits_are_known(published, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PUBLISHED", {"net.pth": Published(published.url, SHA256[:8])})
    with pytest.raises(UserError, match=f"{SHA256[:8]}..., as far as it is published"):
        find_weights("net.pth")
    assert find_weights("net.pth", download=True)[1] == SHA256


def test_a_place_that_cannot_be_written(published, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*choose another folder"):
        find_weights(str(tmp_path / "file" / "net.pth"), download=True)


def test_state_dicts_are_read(tmp_path):
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(state, tmp_path / "new.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "safe.safetensors")
    for name in ("new.pth", "old.pth", "safe.safetensors"):
        found = read_weights(tmp_path / name)
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors", "text.pth", "list.pth", "numbers.pth", "none.pth"])
def test_what_is_no_state_dict_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for evil in ("evil.pth", "evil.safetensors"):
        (tmp_path / evil).write_bytes(pickle.dumps({"a": Evil()}))
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    torch.save({"a": 3}, tmp_path / "numbers.pth")
    with pytest.raises(UserError, match=name) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value) and not (tmp_path / "owned").exists()


def test_misfits_are_named():
    net = torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"f: .* missing bias; superfluous x; weight is \[1, 3\] instead of \[2, 3\]"):
        fill(net, {"weight": torch.ones(1, 3), "x": torch.ones(1)}, "f")
    fill(net, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, "f")
    assert net(torch.ones(1, 3)).tolist() == [[3, 3]]
