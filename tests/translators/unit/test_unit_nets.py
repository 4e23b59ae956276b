"""The nets of UNIT in both forms: sizes, what a score depends on, weights at the start."""

from __future__ import annotations

import plain_unit as plain
import pytest
import torch
from unit_cases import FORMS, WIDTH, new_translator, published_nets, weights

from m2o_fast.nn.memoryless import memoryless
from m2o_fast.translators.unit.nets import PaperBlock, PaperDecoder
from m2o_fast.translators.unit.published import from_official


def count(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_published_numbers_of_parameters() -> None:
    with memoryless():
        wide = {"width": 64, "discriminator_width": 64}
        assert count(PaperBlock(256)) == count(plain.PaperResidual(256)) == 1_180_160
        assert count(plain.Domain(3)) == 11_140_483 and count(plain.MultiScale(3)) == 8_271_171
        expected = {0: 22_280_966, 1: 19_920_646, 4: 12_839_686}
        nets = {share: new_translator({**wide, "share": share}, "plain") for share in expected}
        assert {share: count(translator.generator) for share, translator in nets.items()} == expected
        assert count(nets[0].discriminators) == 2 * 1_318_274
        assert count(new_translator(wide, "plain", side=256).discriminators) == 2 * 8_271_171
        paper = new_translator({**wide, "form": "paper"}, "plain", side=256)
        assert count(paper.generator) == count(plain.Paper(3, 3)) == 18_017_286
        assert count(paper.discriminators) == count(plain.PaperJudge(3, 3)) == 25_240_065
        assert count(new_translator({**wide, "form": "paper"}, "plain").discriminators) == 1_642_497


def test_scores_are_as_many_as_published() -> None:
    """Of the re-release 16, 8 and 4 in a row at 256 pixels; of the paper's form 4, and 2 where it has fewer layers."""

    def sides(form: str, side: int) -> list[int]:
        translator = new_translator({"form": form, "width": 1, "discriminator_width": 1}, "plain", side=side)
        return [scores.shape[-1] for scores in translator.discriminate(torch.zeros(1, 3, side, side), 0)]

    assert sides("rerelease", 256) == [16, 8, 4] and sides("rerelease", 32) == [4, 2]
    assert [sides("paper", side) for side in (32, 64, 256)] == [[2], [2], [4]]


def test_bfloat16_rounds_no_images_of_the_paper_s_decoder() -> None:
    decoder = PaperDecoder(3, 4, 1).float()
    with torch.autocast("cpu", torch.bfloat16):
        images = decoder(torch.randn(1, 16, 2, 2, dtype=torch.float32))
    assert images.dtype == torch.float32 and not torch.equal(images, images.bfloat16().float())


@pytest.mark.parametrize("form", FORMS)
def test_any_size_that_is_a_multiple_of_4(form: str) -> None:
    translator = from_official(weights(published_nets(form)))
    assert translator.translate(torch.rand(1, 3, 20, 44), "A", "B").shape == (1, 3, 20, 44)
    with pytest.raises(ValueError, match="multiples of 4"):
        translator.translate(torch.rand(1, 3, 20, 42), "A", "B")


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ({"discriminator_layers": 4, "scales": 3}, [46, 93, 187]),
        ({"discriminator_layers": 3, "scales": 2}, [22, 45]),
        ({"form": "paper"}, [131]),
        ({"form": "paper", "discriminator_layers": 4}, [35]),
        ({"form": "paper", "discriminator_layers": 4, "discriminator_share": 0}, [31]),
    ],
)
def test_receptive_fields(model: dict[str, object], fields: list[int]) -> None:
    """A score in the middle depends on exactly that many pixels; each scale sees twice as far as that before."""
    translator = new_translator({**model, "width": 1, "discriminator_width": 2}, "plain", side=256)
    for parameter in translator.discriminators.parameters():
        parameter.data.fill_(0.1)
    for number, field in enumerate(fields):
        x = torch.ones(1, 3, 256, 256, requires_grad=True)
        scores = translator.discriminate(x, "A")[number]
        scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
        assert x.grad is not None
        assert x.grad[0, 0].ne(0).any(dim=0).sum() == x.grad[0, 0].ne(0).any(dim=1).sum() == field


def test_initial_weights() -> None:
    """The re-release: by fan-in, discriminators normal with 0.02; the paper's form: all normal with 0.02; biases 0."""
    for form in FORMS:
        torch.manual_seed(0)
        translator = new_translator({"form": form, "width": 16, "discriminator_width": 32}, "plain")
        for name, parameter in translator.named_parameters():
            if name.endswith(("bias", "beta")):
                assert not parameter.any(), name
            elif parameter.numel() > 5000:
                fan_in = (2 / parameter[0].numel()) ** 0.5
                std = fan_in if form == "rerelease" and name.startswith("generator") else 0.02
                assert parameter.std().item() == pytest.approx(std, rel=0.1), name


def test_a_style_of_0_starts_at_the_published_norms() -> None:
    """As long as nothing was learned it steers nothing; drawn styles spread the scales around 1 by sqrt(2)."""
    torch.manual_seed(0)
    translator = new_translator({"share": 3})
    latent = torch.randn(1, 4 * WIDTH, 8, 8)
    steered = translator.generator.decode(latent, 0, torch.zeros(1, translator.size.style_dim))
    torch.testing.assert_close(steered, translator.generator.decode(latent, 0))
    steering = translator.generator.steering["0"]
    shifts, scales = steering(torch.randn(500, translator.size.style_dim)).unflatten(1, (-1, 2, 4 * WIDTH)).unbind(2)
    assert scales.mean().item() == pytest.approx(1, abs=0.2) and shifts.mean().abs() < 0.2
    assert scales.std().item() == pytest.approx(2**0.5, rel=0.2)
