"""The loss: as written down row by row, streams weighing the same, heads seeing only their own rows. Random networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.corpus import STREAMS, as_tensors, open_world, tiny_model
from trainer import loss as module
from trainer.loader import Loader
from trainer.loss import cross_entropy, forward_loss, stream_weights, target_counts
from trainer.masking import Masker
from trainer.mixture import all2all
from trainer.model import Model

Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    corpus = open_world(tmp_path_factory.mktemp("loss"))
    masker = Masker(corpus.streams, [all2all(1.0)], 12, 14)
    return as_tensors(masker(Loader(corpus, 9, 0).next(), np.random.default_rng(0)))


@pytest.fixture
def model() -> Model:
    return tiny_model()


def hidden_of(model: Model, batch: Batch) -> torch.Tensor:
    context, mask = model.encode(batch["in_ids"], batch["in_stream"], batch["in_pos"], batch["in_mask"])
    return model.decode(batch["dec_ids"], batch["out_stream"], batch["out_pos"], batch["out_mask"], context, mask)


@torch.no_grad()
def test_the_loss_is_the_mean_over_streams_of_their_mean_surprise(model: Model, batch: Batch) -> None:
    hidden, found = hidden_of(model, batch), forward_loss(model, batch)
    surprise: dict[int, list[float]] = {}
    for b, t in torch.nonzero(batch["out_mask"]).tolist():
        stream = int(batch["out_stream"][b, t])
        log = torch.log_softmax(model.logits(hidden[b, t], STREAMS[stream].table), dim=-1)
        surprise.setdefault(stream, []).append(-float(log[batch["out_ids"][b, t]]))
    assert len(surprise) == len(STREAMS), "every stream has a target in this batch"
    for stream, values in surprise.items():
        assert float(found.total[stream]) == pytest.approx(sum(values), rel=1e-4)
        assert int(found.count[stream]) == len(values)
    assert float(found.mean) == pytest.approx(np.mean([np.mean(v) for v in surprise.values()]), rel=1e-4)


@torch.no_grad()
def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary(model: Model, batch: Batch) -> None:
    for weight in model.heads.parameters():
        weight.zero_()
    found = forward_loss(model, batch)
    for stream, mean in zip(STREAMS, (found.total / found.count).tolist(), strict=True):
        assert mean == pytest.approx(math.log(stream.vocab), rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_that_are_added_to_those_that_are_there_are_the_same(
    batch: Batch, tied: bool, dtype: torch.dtype
) -> None:
    gradients = []
    for adds in (False, True):
        model = tiny_model(tied=tied)
        model.adds = adds
        for rows in (slice(0, 4), slice(4, None)):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                (3.0 * forward_loss(model, {name: value[rows] for name, value in batch.items()}).mean).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, added = gradients
    assert plain.keys() == added.keys() and plain["table.weight"].any()
    for name, gradient in plain.items():
        assert torch.allclose(added[name], gradient, rtol=1e-5, atol=1e-7), name


def test_a_head_computes_no_row_that_is_not_its_own(
    model: Model, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    apply = module._Head.apply

    def watched(hidden: torch.Tensor, matrix: torch.Tensor, *rest: Any) -> Any:
        seen.append((len(hidden), len(matrix)))
        return apply(hidden, matrix, *rest)

    monkeypatch.setattr(module._Head, "apply", watched)
    forward_loss(model, batch)
    tables = np.array([model.names.index(s.table) for s in STREAMS])[batch["out_stream"].numpy()]
    wanted = np.bincount(tables[batch["out_mask"].numpy()], minlength=len(model.names))
    assert seen == list(zip(wanted.tolist(), model.vocab.values(), strict=True))


def plain(model: Model, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """The same loss by full logits and autograd."""
    means = []
    for s, stream in enumerate(STREAMS):
        mine = batch["out_mask"] & (batch["out_stream"] == s)
        logits = model.logits(hidden[mine], stream.table)
        means.append(torch.nn.functional.cross_entropy(logits, batch["out_ids"][mine]))
    return torch.stack(means).mean()


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_are_those_of_full_logits_however_few_rows_at_a_time(
    batch: Batch, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOGITS_CPU", 1)
    monkeypatch.setattr(module, "ROWS", 4)
    found = {}
    for name in ("lean", "plain"):
        model = tiny_model(tied=tied)
        hidden = hidden_of(model, batch)
        if name == "lean":
            loss = cross_entropy(model, hidden, batch["out_ids"], batch["out_stream"], batch["out_mask"]).mean
        else:
            loss = plain(model, batch, hidden)
        (2 * loss).backward()
        found[name] = float(loss.detach()), {n: p.grad for n, p in model.named_parameters()}
    assert found["lean"][0] == pytest.approx(found["plain"][0], rel=1e-5)
    for name, grad in found["plain"][1].items():
        other = found["lean"][1][name]
        assert grad is not None and other is not None
        assert torch.allclose(grad, other, atol=1e-6, rtol=1e-3), name


@torch.no_grad()
def test_weighed_by_tokens_the_loss_is_the_mean_over_all_targets(model: Model, batch: Batch) -> None:
    count = target_counts(batch["out_stream"], batch["out_mask"], len(STREAMS))
    found = forward_loss(model, batch, stream_weights(count, "tokens"))
    assert float(found.mean) == pytest.approx(float(found.total.sum() / found.count.sum()), rel=1e-5)


@torch.no_grad()
def test_parts_of_a_batch_add_up_to_the_whole(model: Model, batch: Batch) -> None:
    """What several processes, or several micro-batches, do: weights of the whole batch, sums over its parts."""
    weight = stream_weights(target_counts(batch["out_stream"], batch["out_mask"], len(STREAMS)), "streams")
    parts = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 2), slice(2, 9))]
    total = sum(float(forward_loss(model, part, weight).mean) for part in parts)
    assert total == pytest.approx(float(forward_loss(model, batch).mean), rel=1e-5)


def test_padding_and_absent_streams_have_no_part(model: Model, batch: Batch) -> None:
    only = batch["out_mask"] & (batch["out_stream"] == 0)
    found = forward_loss(model, {**batch, "out_mask": only})
    assert found.count.tolist() == [int(only.sum()), 0, 0, 0, 0]
    assert float(found.mean.detach()) == pytest.approx(float(found.total[0] / found.count[0]), rel=1e-5)
    found.mean.backward()
    heads = {name: head.weight.grad for name, head in model.heads.items()}
    assert [name for name, grad in heads.items() if grad is None or grad.any()] == ["tok_canny_edge"]


def test_a_batch_without_targets_has_no_loss_and_no_gradient(model: Model, batch: Batch) -> None:
    found = forward_loss(model, {**batch, "out_mask": torch.zeros_like(batch["out_mask"])})
    found.mean.backward()
    assert float(found.mean.detach()) == 0 and found.count.sum() == 0 and found.total.sum() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_loss_goes_down_along_its_gradient(model: Model, batch: Batch) -> None:
    first = forward_loss(model, batch).mean
    first.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(0.01 * p.grad)
        assert float(forward_loss(model, batch).mean) < float(first.detach())


def test_totals_carry_no_gradient(model: Model, batch: Batch) -> None:
    hidden = hidden_of(model, batch)
    found = cross_entropy(model, hidden, batch["out_ids"], batch["out_stream"], batch["out_mask"])
    assert found.mean.requires_grad and not found.total.requires_grad
