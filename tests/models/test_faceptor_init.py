"""Initial values of Faceptor: the official code's at the full size, unchanged in small networks."""

from __future__ import annotations

import pytest
import torch

from mien.models.decoders import Attention, QueryDecoder
from mien.models.faceptor import faceptor_tiny
from mien.tasks import task


@pytest.fixture(scope="module")
def decoder() -> QueryDecoder:
    """The full size's decoder, of three layers and the levels of a second stage."""
    torch.manual_seed(0)
    decoder = QueryDecoder((768,) * 6, dim=256, heads=8, layers=3, ffn=2048)
    decoder.init_official()
    return decoder


def test_level_embeddings_are_standard_normal(decoder):
    assert float(torch.stack(list(decoder.level)).detach().std()) == pytest.approx(1.0, abs=0.05)


def test_projections_are_kaiming_with_zero_biases(decoder):
    weights = torch.cat([p.weight.flatten() for p in decoder.project])
    assert float(weights.detach().std()) == pytest.approx(0.0361, abs=2e-4)
    assert all(not p.bias.any() for p in decoder.project)


def test_attention_biases_are_zero_and_others_are_not(decoder):
    attentions = [m for m in decoder.layers.modules() if isinstance(m, Attention)]
    assert len(attentions) == 6
    assert all(not linear.bias.any() for a in attentions for linear in (a.q, a.k, a.v, a.out))
    assert all(bool(layer.ffn[0].bias.any()) for layer in decoder.layers)


def test_a_small_network_starts_as_before():
    torch.manual_seed(0)
    model = faceptor_tiny(tasks=[task("age")], size=64)
    levels = torch.stack(list(model.decoder.level))
    assert float(levels.detach().std()) == pytest.approx(128**-0.5, rel=0.15)
    assert bool(model.decoder.layers[0].cross.q.bias.any())


def test_the_full_size_asks_for_them(monkeypatch: pytest.MonkeyPatch):
    from mien.models import faceptor

    calls = []
    monkeypatch.setattr(QueryDecoder, "init_official", lambda self: calls.append(self))
    with torch.device("meta"):
        model = faceptor.faceptor_base()
        faceptor_tiny(size=64)
    assert calls == [model.decoder]
