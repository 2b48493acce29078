"""Faceptor against the published counts, its second stage, and its independence of tasks."""

from __future__ import annotations

import pytest
import torch

from mien.models.faceptor import BASE_TASKS, PixelDecoder, faceptor_base, faceptor_tiny
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, task
from mien.tasks.landmarks import LandmarkTask
from mien.tasks.parsing import ParsingTask


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def base():
    with torch.device("meta"):
        return faceptor_base()


def test_the_base_size_has_the_published_number_of_parameters(base):
    assert count(base) == 103_200_001
    parts = {"encoder": 86_828_544, "decoder": 14_537_472, "feature": 987_136, "value": 257}
    assert {name: count(getattr(base, name)) for name in parts} == parts
    assert base.query_feat.numel() + base.query_embed.numel() == 123_904
    assert count(base.pixel) + count(base.map_query) == 722_688


def test_thirteen_sets_and_the_second_stage_add_what_they_should():
    points = [LandmarkTask(f"points{n}", f"points{n}", tuple(range(n)), (0, 1)) for n in (98, 29, 19)]
    others = [
        ParsingTask("lapa11", "lapa11", tuple("abcdefghijk"), {}),
        *(task(t) for t in ("age@utkface", "expression7@ferplus")),
    ]
    with torch.device("meta"):
        assert count(faceptor_base(tasks=[*BASE_TASKS, *points, *others])) == 103_335_681
        assert (
            count(faceptor_base(tasks=[*BASE_TASKS, *points, *others], levels=(11, 1, 3, 5, 7, 9)))
            == 104_321_281
        )


def test_the_second_stage_trains_the_new_levels_alone():
    with torch.device("meta"):
        model = faceptor_base(levels=(11, 1, 3, 5, 7, 9)).second_stage()
    learn = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert sum(learn.values()) == 985_600
    assert all(n.startswith(("decoder.project.", "decoder.level.")) for n in learn)
    assert not any(n.startswith(("decoder.project.0.", "decoder.level.0")) for n in learn)


def test_a_step_of_the_second_stage_leaves_the_first_as_it_was():
    model = faceptor_tiny(tasks=(AGE, EXPRESSION), size=64).second_stage()
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    sum(v.square().mean() for v in model.eval()(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    projection = {f"decoder.project.1.{part}.{kind}" for part in (0, 1) for kind in ("weight", "bias")}
    assert changed == {*projection, "decoder.level.1"}


def test_a_task_answers_the_same_alone_and_among_others():
    torch.manual_seed(0)
    both = faceptor_tiny(tasks=(AGE, ATTRIBUTES), size=64).eval()
    alone = faceptor_tiny(tasks=(AGE,), size=64).eval()
    state = {k: v[:101] if k.startswith("query_") else v for k, v in both.state_dict().items()}
    alone.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(both(images)["age"], alone(images)["age"], atol=1e-5)


def test_pixel_features_are_four_times_as_fine():
    assert PixelDecoder(8)(torch.randn(1, 8, 32, 32), []).shape == (1, 8, 128, 128)


def test_tokens_of_one_level_and_of_six(base):
    with torch.device("meta"):
        six = faceptor_base(levels=(11, 1, 3, 5, 7, 9))
        for side, tokens in ((112, 49), (512, 1024)):
            maps = base.encoder(torch.empty(1, 3, side, side))
            assert len(maps) == 12
            for model, levels in ((base, 1), (six, 6)):
                assert (
                    sum(m.shape[-2:].numel() for m in model.decoder.memory([maps[i] for i in model.levels]))
                    == levels * tokens
                )
