"""Where a model starts: at the frequencies of the tokens, with like codes alike. Tiny random networks and tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.corpus import RGB, TINY, open_world, tiny_model
from tokenize_shards.wordpiece import AXES, CLASS, coordinate
from trainer.blocks import Attention, Cache
from trainer.config import TrainConfig, components
from trainer.evaluate import judge
from trainer.loader import Blend, Corpus
from trainer.loss import states
from trainer.masking import Masker
from trainer.model import Model, Size
from trainer.run import Run
from trainer.start import HEAD, start
from trainer.streams import TEXT

SIZES = (12, 12)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_world(tmp_path_factory.mktemp("start"), 0.25, SIZES)


def started(corpus: Corpus, size: Size = TINY) -> Model:
    model, config = tiny_model(size=size), TrainConfig()
    masker = Masker(corpus.streams, components(config, [s.name for s in corpus.streams]), 12, 12)
    start(model, Blend([corpus]), masker, 0)
    return model


def test_the_first_loss_is_that_of_counting(corpus: Corpus) -> None:
    """Which a random start is far above, and equal chances where tokens are not equally frequent."""
    random, found = (judge(model, corpus, 12, 12, 0).photos for model in (tiny_model(), started(corpus)))
    for name, h in found.items():
        assert abs(h.loss - h.unigram) < 0.25, name
        assert random[name].loss > h.loss + 0.2, name
    assert found["tok_caption"].unigram < found["tok_caption"].uniform - 0.5


def test_codes_that_are_alike_start_alike(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four groups of sixteen codes: rows of tables and heads are nearer within a group than between groups."""
    rng = np.random.default_rng(0)
    codes = (np.repeat(rng.normal(size=(4, 3)), 16, axis=0) + 0.05 * rng.normal(size=(64, 3))).astype(np.float32)
    monkeypatch.setattr(corpus, "codes", lambda name: codes if name == RGB.name else None)
    model = started(corpus)
    index = [s.name for s in model.streams].index(RGB.name)
    first = int(model.table_start[index])
    group = torch.arange(64) // 16
    same = (group[:, None] == group) & ~torch.eye(64, dtype=torch.bool)
    for rows in (model.table.weight[first : first + 64], model.head_weights()[RGB.name]):
        apart = torch.cdist(rows.detach(), rows.detach())
        assert apart[same].mean() < 0.6 * apart[group[:, None] != group].mean()
    assert HEAD / 2 < float(model.head_weights()[RGB.name].detach().std()) < HEAD * 2


def test_numbers_that_are_near_start_alike(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every axis, in the table and in the head; words do not."""
    streams = [replace(s, vocab=CLASS + 20) if s.kind == "sequence" else s for s in corpus.streams]
    model = Model(streams, TINY)
    monkeypatch.setattr("trainer.start._frequencies", lambda *_: None)  # the tokens are of a smaller vocabulary
    start(model, Blend([corpus]), Masker(streams, components(TrainConfig(), [s.name for s in streams]), 12, 12), 0)
    first = int(model.table_start[next(i for i, s in enumerate(streams) if s.table == TEXT)])
    for rows in (model.table.weight[first : first + CLASS + 20], model.head_weights()[TEXT]):
        apart = torch.cdist(rows.detach(), rows.detach())
        for axis in range(AXES):
            value = [coordinate(axis, v) for v in (100, 102, 180, 900)]
            near, far, further = (float(apart[value[0], v]) for v in value[1:])
            assert near < 0.6 * far and near < 0.6 * further
        assert float(apart[CLASS, CLASS + 1]) > 0.7 * float(apart[CLASS, CLASS + 19])


def test_one_head_looks_at_the_place_that_is_asked_for(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every block, of all places that are shown, far more than by chance; and the other heads do not."""
    model = started(corpus, Size(2, 3, 128, 2))
    weights: list[torch.Tensor] = []
    attend = Attention.attend

    def watched(self: Attention, x: torch.Tensor, cache: Cache, mask: torch.Tensor | None) -> torch.Tensor:
        if any(self is block.cross_attn for block in model.decoder):
            weights.append((self._heads(self.q(x)) @ cache[0].transpose(2, 3) * 64**-0.5).softmax(-1))
        return attend(self, x, cache, mask)

    monkeypatch.setattr(Attention, "attend", watched)
    which = [s.name for s in model.streams].index(RGB.name)
    places = torch.arange(RGB.length)[None]
    everywhere = torch.ones_like(places, dtype=torch.bool)
    given = {"stream": torch.full_like(places, which), "pos": places, "mask": everywhere}
    ids = torch.randint(0, 64, places.shape, generator=torch.Generator().manual_seed(0))
    batch = {"in_ids": ids, "dec_ids": torch.zeros_like(ids)}
    batch |= {f"{side}_{key}": value for side in ("in", "out") for key, value in given.items()}
    with torch.no_grad():
        states(model, batch)
    assert len(weights) == 3
    for weight in weights:
        first, second = (weight[0, head].diagonal().mean() * RGB.length for head in (0, 1))
        assert first > 3 > 2 > second


def test_a_run_starts_so_unless_it_is_told_not_to(corpus: Corpus) -> None:
    def weights(**changed: object) -> torch.Tensor:
        settings = TrainConfig.model_validate({"n_in": 12, "n_out": 12, **changed})
        return Run(corpus, settings).model.table.weight.detach()

    first, again, random = weights(), weights(), weights(start="random")
    assert torch.equal(first, again) and float(first.std()) == pytest.approx(1, rel=0.1)
    assert float(random.std()) == pytest.approx(0.02, rel=0.1) and float(weights(tied=True).std()) < 0.03
