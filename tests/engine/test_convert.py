"""Published weights on disk: what is loaded, what is refused, and that nothing runs."""

import os

import plain_networks as plain
import pytest
import torch

from m2o_fast.engine.checkpoint import load_translator, read_manifest
from m2o_fast.engine.convert import convert_checkpoint, read_weights, write_published
from m2o_fast.errors import UserError


class Evil:
    """What a malicious file holds: unpickling it would make a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "nets.ckpt"


def test_a_file_with_code_is_refused_and_does_not_run(file, tmp_path):
    torch.save({"generator": {"w": Evil(tmp_path / "owned")}}, file)
    with pytest.raises(UserError, match=r"nets\.ckpt: refused: it holds the Python object .*mkdir") as caught:
        read_weights(file)
    assert not (tmp_path / "owned").exists()
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_files_that_are_none(file, content):
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"nets\.ckpt: (it is|refused)") as caught:
        read_weights(file)
    assert "weights_only" not in str(caught.value)


def test_a_cut_file(file):
    torch.save({"generator": {"w": torch.zeros(1000)}}, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        read_weights(file)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, {3: {}}, {"generator": {3: torch.zeros(1)}}])
def test_files_without_state_dicts(file, content):
    torch.save(content, file)
    with pytest.raises(UserError, match="expected"):
        read_weights(file)


def test_missing_file_and_unknown_layout(file, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        convert_checkpoint("stargan-v2", file, tmp_path / "out")
    with pytest.raises(UserError, match="unknown layout 'starganv3'; nearest: 'starganv2'"):
        convert_checkpoint("starganv3", file, tmp_path / "out")
    torch.save({"generator": {"w": torch.zeros(1)}}, file)
    with pytest.raises(UserError, match="missing nets: mapping_network, style_encoder"):
        convert_checkpoint("stargan-v2", file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_weights_of_one_net_ask_which_one_it_is(file, tmp_path):
    torch.save({"model.0.weight": torch.zeros(4, 3, 4, 4)}, file)
    with pytest.raises(UserError, match=r"one net; say which one, as NET=.* \(nets: G, D, G_BA, D_BA\)"):
        convert_checkpoint("pix2pix", file, tmp_path / "out")


# --- published layout -> folder -> translator ---


@pytest.fixture(scope="module")
def published():
    """Nets of the published layout, written independently of this package."""
    torch.manual_seed(0)
    widths = {"base_width": 4, "max_width": 8}
    return {
        "generator": plain.Generator(32, style_dim=6, **widths),
        "mapping_network": plain.MappingNetwork(latent_dim=5, style_dim=6, domains=2, hidden_dim=7),
        "style_encoder": plain.StyleEncoder(32, style_dim=6, domains=2, **widths),
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_converted_weights_are_the_published_functions(published, prefix, file, tmp_path):
    weights = {
        name: {prefix + key: value for key, value in net.state_dict().items()} for name, net in published.items()
    }
    torch.save({**weights, "fan": {"weight": torch.zeros(1)}}, file)
    convert_checkpoint("stargan-v2", file, tmp_path / "out", ["cat", "dog"])
    assert not any(path.suffix in (".pt", ".ckpt", ".pkl") for path in (tmp_path / "out").iterdir())
    translator = load_translator(tmp_path / "out", read_manifest(tmp_path / "out"))
    assert [domain.name for domain in translator.domains] == ["cat", "dog"]
    x, z = torch.randn(1, 3, 32, 32), torch.randn(1, 5)
    style = published["mapping_network"](z, torch.tensor([1]))
    assert torch.allclose(translator.map_style(z, "dog"), style, atol=1e-6)
    expected = published["generator"](x, style)
    assert torch.allclose(translator.translate(x, "cat", "dog", style=style), expected, atol=1e-5)


def test_an_existing_folder_is_left_alone(published, file, tmp_path):
    torch.save({name: net.state_dict() for name, net in published.items()}, file)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        convert_checkpoint("stargan-v2", file, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_names_must_fit_the_weights(published, file, tmp_path):
    torch.save({name: net.state_dict() for name, net in published.items()}, file)
    with pytest.raises(UserError, match="2 domains, but 3 names"):
        convert_checkpoint("stargan-v2", file, tmp_path / "out", ["a", "b", "c"])
    with pytest.raises(ValueError, match="domain name"):
        convert_checkpoint("stargan-v2", file, tmp_path / "out", ["a", ""])
    assert not (tmp_path / "out").exists()


def test_a_file_per_net_and_the_published_files_again(tmp_path):
    """Key by key; nets that are not given are left out."""
    from m2o_fast.m2o import Domain
    from m2o_fast.translators.cyclegan import SYSTEM
    from m2o_fast.translators.cyclegan.published import from_official, to_official
    from m2o_fast.translators.cyclegan.settings import CycleGANSettings
    from m2o_fast.translators.cyclegan.translator import CycleGAN

    settings = CycleGANSettings.model_validate({"model": {"width": 2, "blocks": 1, "discriminator_width": 2}})
    domains = [Domain("A", 3), Domain("B", 1)]
    description = settings.description(domains, SYSTEM.variants["plain"], 32)
    weights = to_official(CycleGAN.from_description({**description, "weights": {}}))
    files = {}
    for net in ("G_A", "D_A"):
        files[net] = tmp_path / f"{net}.pth"
        torch.save(weights[net], files[net])
    translator = convert_checkpoint("cyclegan", files, tmp_path / "run", ["photo", "map"], image_size=48)
    assert translator.image_size == 48 and [domain.name for domain in translator.domains] == ["photo", "map"]
    written = write_published(tmp_path / "run", tmp_path / "again", "cyclegan")
    assert [file.name for file in written] == ["latest_net_G_A.pth", "latest_net_D_A.pth"]
    for file, net in zip(written, files, strict=True):
        again = torch.load(file, weights_only=True)
        assert list(again) == list(weights[net])
        assert all(torch.equal(again[key], tensor) for key, tensor in weights[net].items())
    assert from_official({"G_A": torch.load(written[0], weights_only=True)}).directions() == ((0, 1),)
    with pytest.raises(UserError, match="exists already"):
        write_published(tmp_path / "run", tmp_path / "again")
    with pytest.raises(UserError, match="is a run of system 'cyclegan', not 'pix2pix'"):
        write_published(tmp_path / "run", tmp_path / "other", "pix2pix")
    with pytest.raises(UserError, match="the layout 'stargan-v2' tells image_size by itself"):
        convert_checkpoint("stargan-v2", files["G_A"], tmp_path / "x", image_size=48)


def test_stargan_v2_goes_back_to_its_published_file(tmp_path):
    given = {name: net.state_dict() for name, net in _small_published().items()}
    torch.save(given, tmp_path / "nets_ema.ckpt")
    convert_checkpoint("stargan-v2", tmp_path / "nets_ema.ckpt", tmp_path / "run")
    (written,) = write_published(tmp_path / "run", tmp_path / "again", "stargan-v2")
    again = torch.load(written, weights_only=True)
    assert written.name == "nets_ema.ckpt" and again.keys() == given.keys()
    for net, tensors in given.items():
        assert again[net].keys() == tensors.keys()
        assert all(torch.equal(again[net][key], tensor) for key, tensor in tensors.items())


def _small_published():
    widths = {"max_width": 8, "base_width": 4}
    return {
        "generator": plain.Generator(32, **widths),
        "mapping_network": plain.MappingNetwork(),
        "style_encoder": plain.StyleEncoder(32, **widths),
        "discriminator": plain.Discriminator(32, **widths),
    }
