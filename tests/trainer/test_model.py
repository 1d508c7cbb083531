"""The model: published sizes, padding that says nothing, streams apart in the decoder, texts that do not see ahead.

All networks are random and tiny, but for the sizes, which are only counted and take no memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.trainer.corpus import FIRST_WORD, STREAMS, tiny_model
from trainer.model import SIZES, Model
from trainer.streams import SOS

EDGES, TEXT, VECTOR, PAIRS, IMAGE = range(5)


def rows(*parts: tuple[int, list[int]], width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One sample: (ids, stream, position, mask) of (stream, ids) after each other, padded to `width`."""
    ids, stream, position, mask = (torch.zeros(1, width, dtype=torch.long) for _ in range(4))
    at = 0
    for index, values in parts:
        end = at + len(values)
        ids[0, at:end], stream[0, at:end] = torch.tensor(values), index
        position[0, at:end], mask[0, at:end] = torch.arange(len(values)), 1
        at = end
    return ids, stream, position, mask.bool()


SHOWN = ((IMAGE, [1, 2, 3]), (TEXT, [FIRST_WORD, FIRST_WORD + 1]))
WORDS = [SOS, FIRST_WORD + 3, FIRST_WORD + 4, FIRST_WORD + 5]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.mark.parametrize(
    ("size", "trunk"), [("B", 198e6), ("L", 705e6), ("XL", 2.8e9)], ids=lambda value: str(value)
)  # fmt: skip
def test_published_sizes(size: str, trunk: float) -> None:
    with torch.device("meta"):
        made = Model(STREAMS, SIZES[size])
    assert made.trunk_parameters() == pytest.approx(trunk, rel=0.01)
    assert SIZES[size].dim == 64 * SIZES[size].heads


@pytest.mark.parametrize("size", sorted(SIZES))
def test_all_sequences_share_one_table_and_one_head(size: str) -> None:
    with torch.device("meta"):
        made, tied = Model(STREAMS, SIZES[size]), Model(STREAMS, SIZES[size], tied=True)
    dim, vocab = SIZES[size].dim, 64 + 32 + 32 + 260
    assert made.table.weight.shape == (vocab, dim)
    assert {name: len(weight) for name, weight in zip(made.heads, made.heads.parameters(), strict=True)} == made.vocab
    untied = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in tied.parameters())
    assert untied == vocab * dim


def test_tied_heads_are_the_tables() -> None:
    tied = tiny_model(tied=True)
    hidden = torch.randn(3, tied.size.dim, generator=torch.Generator().manual_seed(0))
    start = 32 + 260
    assert torch.allclose(tied.logits(hidden, "tok_dinov2_global"), hidden @ tied.table.weight[start : start + 32].T)


@torch.no_grad()
def test_shapes(model: Model) -> None:
    context, mask = model.encode(*rows(*SHOWN, width=9))
    assert context.shape == (1, 9, model.size.dim) and mask is not None
    dec_ids, stream, position, real = rows((TEXT, WORDS), (EDGES, [0, 0]), width=7)
    hidden = model.decode(dec_ids, stream, position, real, context, mask)
    assert hidden.shape == (1, 7, model.size.dim) and bool(torch.isfinite(hidden).all())
    for name, vocab in model.vocab.items():
        assert model.logits(hidden, name).shape == (1, 7, vocab)


def test_only_the_picked_tokens_are_embedded(model: Model) -> None:
    """Not, as in the reference, every token of every modality."""
    looked_up: list[int] = []
    handle = model.table.register_forward_hook(lambda module, given, out: looked_up.append(given[0].numel()))
    with torch.no_grad():
        context, mask = model.encode(*rows(*SHOWN, width=6))
        model.decode(*rows((TEXT, WORDS), width=5), context, mask)
    handle.remove()
    assert looked_up == [6, 5]


@torch.no_grad()
def test_padding_says_nothing_whatever_stands_in_it(model: Model) -> None:
    exact, no_mask = model.encode(*rows(*SHOWN, width=5))
    assert no_mask is None
    ids, stream, position, real = rows(*SHOWN, width=9)
    ids[:, 5:], stream[:, 5:], position[:, 5:] = 7, EDGES, 2
    padded, mask = model.encode(ids, stream, position, real)
    assert torch.allclose(padded[:, :5], exact, atol=1e-5)
    asked = rows((EDGES, [0, 0, 0]), width=3)
    dec_ids, which, place = (torch.cat([a, torch.ones_like(a[:, :2])], dim=1) for a in asked[:3])
    real = torch.cat([asked[3], torch.zeros(1, 2, dtype=torch.bool)], dim=1)
    wanted = model.decode(*asked, exact, None)
    assert torch.allclose(model.decode(dec_ids, which, place, real, padded, mask)[:, :3], wanted, atol=1e-5)


@torch.no_grad()
def test_a_sample_is_the_same_beside_any_other(model: Model) -> None:
    mine, other = rows(*SHOWN, width=6), rows((PAIRS, [FIRST_WORD] * 4), (VECTOR, [3]), width=6)
    alone, _ = model.encode(*mine)
    both, _ = model.encode(*(torch.cat(pair) for pair in zip(other, mine, strict=True)))
    assert torch.allclose(both[1, :5], alone[0, :5], atol=1e-5)


@torch.no_grad()
def test_the_order_of_visible_tokens_does_not_matter_and_their_position_and_stream_do(model: Model) -> None:
    given = rows(*SHOWN, width=5)
    context, _ = model.encode(*given)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled, _ = model.encode(*(a[:, order] for a in given))
    assert torch.allclose(shuffled, context[:, order], atol=1e-5)
    ids, stream, position, real = given
    moved, _ = model.encode(ids, stream, position + 1, real)
    assert not torch.allclose(moved, context, atol=1e-3)
    assert not torch.allclose(model.encode(ids, torch.where(stream == TEXT, PAIRS, stream), position, real)[0], context)


@torch.no_grad()
def test_a_sample_that_shows_nothing_predicts_finite_numbers(model: Model) -> None:
    context, mask = model.encode(*rows(width=4))
    hidden = model.decode(*rows((IMAGE, [0, 0]), width=3), context, mask)
    assert bool(torch.isfinite(hidden).all())


def decoded(model: Model, *parts: tuple[int, list[int]]) -> Tensor:
    with torch.no_grad():
        context, mask = model.encode(*rows(*SHOWN, width=6))
        return model.decode(*rows(*parts, width=8), context, mask)[0]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_text_does_not_see_what_comes_later(model: Model, at: int) -> None:
    changed = list(WORDS)
    changed[at] += 20
    before, after = decoded(model, (TEXT, WORDS)), decoded(model, (TEXT, changed))
    assert torch.equal(before[:at], after[:at])
    assert not torch.allclose(before[at], after[at], atol=1e-4)


def test_streams_do_not_see_each_other_in_the_decoder(model: Model) -> None:
    alone = decoded(model, (TEXT, WORDS))[:4]
    for other in ((EDGES, [0, 0]), (PAIRS, [SOS, FIRST_WORD + 9])):
        beside = decoded(model, (TEXT, WORDS), other)[:4]
        assert torch.allclose(beside, alone, atol=1e-5)


def test_positions_of_an_image_see_each_other_both_ways_and_no_tokens(model: Model) -> None:
    one, two = decoded(model, (EDGES, [0])), decoded(model, (EDGES, [0, 0]))
    assert not torch.allclose(one[0], two[0], atol=1e-4), "the first sees that the second is asked for"
    assert torch.equal(two, decoded(model, (EDGES, [5, 6]))), "what is to be predicted is no input"


@torch.no_grad()
def test_steps_with_a_cache_are_the_full_forward(model: Model) -> None:
    given = [torch.cat(pair) for pair in zip(rows(*SHOWN, width=6), rows((VECTOR, [1, 2]), width=6), strict=True)]
    context, mask = model.encode(*given)
    dec_ids, stream, position, real = (torch.cat([a, a]) for a in rows((TEXT, WORDS), width=4))
    wanted = model.decode(dec_ids, stream, position, real, context, mask)
    contexts, past = model.contexts(context), None
    for t in range(4):
        part = slice(t, t + 1)
        x = model.query(dec_ids[:, part], stream[:, part], position[:, part], real[:, part])
        hidden, past = model.step(x, past, contexts, mask)
        assert torch.allclose(hidden[:, 0], wanted[:, t], atol=1e-5)


def test_positions_are_not_saved_and_come_out_the_same(model: Model) -> None:
    assert not {"positions", "position_start", "causal", "table_start"} & set(model.state_dict())
    assert torch.equal(tiny_model(seed=1).positions, model.positions)
    assert model.position_start.tolist() == [0, 4, 4 + 10, 14 + 3, 17 + 8]
