"""Codebooks: the nearest code is the index, training follows the latents, and codes nobody uses start again."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from tokenize_shards import codebook as module
from tokenize_shards.codebook import FSQ_LEVELS, Codebook, Fsq


def latents(n: int, heads: int = 1, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, heads, dim, generator=torch.Generator().manual_seed(seed))


def started(cosine: bool, heads: int = 1, codes: int = 16, **settings: float) -> Codebook:
    codebook = Codebook(heads, codes, 4, cosine, **settings)
    codebook.start(latents(300, heads), batch=100, seed=0)
    return codebook


def test_cosine_compares_directions_only() -> None:
    codebook, z = started(cosine=True), latents(50, seed=1)
    assert torch.allclose(codebook.embed.norm(dim=-1), torch.ones(1, 16))
    ids = codebook.index(z)
    assert torch.equal(ids, codebook.index(z * 7.5))
    assert torch.equal(ids[:, 0], (F.normalize(z[:, 0], dim=-1) @ codebook.embed[0].T).argmax(1))


def test_heads_have_codes_of_their_own() -> None:
    codebook, z = started(cosine=False, heads=3), latents(50, 3, seed=1)
    ids = codebook.index(z)
    assert ids.shape == (50, 3)
    for head in range(3):
        assert torch.equal(ids[:, head], torch.cdist(z[:, head], codebook.embed[head]).argmin(1))
    codes = codebook.lookup(ids)
    assert torch.equal(codes[7, 2], codebook.embed[2, ids[7, 2]])


@pytest.mark.parametrize("cosine", [True, False])
def test_codes_are_their_own_nearest_and_survive_saving(cosine: bool) -> None:
    codebook = started(cosine, heads=2)
    every = torch.arange(16)[:, None].expand(16, 2)
    assert torch.equal(codebook.index(codebook.lookup(every)), every)
    state = codebook.state_dict()
    assert list(state) == ["embed"]
    again = Codebook(2, 16, 4, cosine)
    again.load_state_dict(state)
    z = latents(200, 2, seed=2)
    assert torch.equal(again.index(z), codebook.index(z))


def test_the_gradient_passes_straight_through() -> None:
    codebook = started(cosine=False).eval()
    z = latents(20, seed=1).requires_grad_()
    codes, commitment = codebook(z)
    assert torch.allclose(codes, codebook.lookup(codebook.index(z)), atol=1e-6)
    codes.sum().backward(retain_graph=True)
    assert z.grad is not None and torch.equal(z.grad, torch.ones_like(z))
    z.grad = None
    commitment.backward()
    pull = 2 * (z.detach() - codebook.lookup(codebook.index(z))) / 20
    assert torch.allclose(z.grad, pull, atol=1e-6)


def test_evaluation_changes_nothing_and_training_follows() -> None:
    codebook, z = started(cosine=False), latents(100, seed=0)
    before = codebook.embed.clone()
    codebook.eval()(z)
    assert torch.equal(codebook.embed, before)
    moved = z + 2
    codebook.train()
    first = float(codebook(moved)[1])
    for _ in range(200):
        last = float(codebook(moved)[1])
    assert last < 0.7 * first
    assert not torch.equal(codebook.embed, before)


def test_latents_that_are_not_finite_leave_the_codes_alone() -> None:
    codebook, z = started(cosine=False), latents(10)
    before = codebook.embed.clone()
    z[3, 0, 1] = float("nan")
    codebook.train()(z)
    assert torch.equal(codebook.embed, before)


def test_dead_codes_restart_at_latents() -> None:
    codebook = started(cosine=False, decay=0.5)
    codebook.embed[0, 5] = 1e6  # nothing is ever near it
    codebook.size[0, 5] = 0
    z = latents(100, seed=3)
    codebook.train()(z)
    assert (codebook.embed[0, 5] == z[:, 0]).all(1).any()
    far = latents(100, seed=4) + 50  # all codes but the nearest starve, and must come over
    for _ in range(30):
        codebook(far)
    used = codebook.index(far).unique().numel()
    assert used >= 12, f"only {used} of 16 codes are in use after the latents moved away"


def follow_together(books: list[Codebook], batches: list[torch.Tensor], patch: pytest.MonkeyPatch) -> list[int]:
    """One step of workers with a codebook and a batch each; the workers that asked the first one for its codes."""
    parts, asked = list[list[torch.Tensor]](), list[int]()
    patch.setattr(module, "add_up", lambda *mine: parts.append([one.clone() for one in mine]))
    for book, z in zip(books, batches, strict=True):
        copy.deepcopy(book).train()(z)
    assert len(parts) == len(books), "every worker adds to the sums, or the others wait for ever"
    sums = [torch.stack(both).sum(0) for both in zip(*parts, strict=True)]
    patch.setattr(module, "add_up", lambda *mine: [a.copy_(b) for a, b in zip(mine, sums, strict=True)])
    for rank, (book, z) in enumerate(zip(books, batches, strict=True)):
        patch.setattr(module, "take_from_first", lambda *_, rank=rank: asked.append(rank))
        book.train()(z)
    return asked


def test_workers_with_other_batches_take_the_same_codes_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    book = started(cosine=False)
    book.embed[0, 5], book.size[0, 5] = 1e6, 0.1  # dead to 69 latents together, and not yet to 5
    books = [copy.deepcopy(book) for _ in range(2)]
    assert follow_together(books, [latents(64, seed=1), latents(5, seed=2)], monkeypatch) == [0, 1]
    assert torch.equal(books[0].size, books[1].size)


def test_latents_of_one_worker_that_are_not_finite_stop_all(monkeypatch: pytest.MonkeyPatch) -> None:
    books, bad = [started(cosine=True) for _ in range(2)], latents(10, seed=2)
    before, bad[3, 0, 1] = books[0].embed.clone(), float("inf")
    assert follow_together(books, [latents(64, seed=1), bad], monkeypatch) == []
    assert all(torch.equal(book.embed, before) for book in books)


def test_a_start_keeps_every_code_alive_for_a_while() -> None:
    codebook = started(cosine=True)
    before = codebook.embed.clone()
    codebook.train()(latents(100, seed=5))
    turned = (codebook.embed * before).sum(-1)
    assert turned.min() > 0.95, "no code jumped elsewhere in the first step"


def test_same_seed_same_codes() -> None:
    a, b = started(cosine=False), started(cosine=False)
    for step in range(5):
        for codebook in (a, b):
            codebook.train()(latents(30, seed=step))
    assert torch.equal(a.embed, b.embed)


@pytest.mark.parametrize(("asked", "levels"), FSQ_LEVELS.items())
def test_fsq_grids_are_near_the_vocabulary_asked_for(asked: int, levels: tuple[int, ...]) -> None:
    grid = Fsq(levels)
    every = torch.arange(grid.codes)[:, None]
    codes = grid.lookup(every)
    assert codes.shape == (grid.codes, 1, len(levels))
    assert len(torch.unique(codes, dim=0)) == grid.codes
    assert 0.9 < grid.codes / asked < 1.1


def test_fsq_indexes_what_it_rounds_to_whatever_the_batch() -> None:
    grid, z = Fsq((8, 5, 5, 5)), 2 * latents(100, dim=4)
    ids = grid.index(z)
    codes, commitment = grid(z)
    assert ids.shape == (100, 1) and int(ids.max()) < 1000
    assert torch.allclose(grid.lookup(ids), codes) and float(commitment) == 0
    assert torch.equal(ids, torch.cat([grid.index(row[None]) for row in z]))
    assert len(ids.unique()) > 50
    grid.start(z, 10, 0)
    assert torch.equal(grid.index(z), ids), "nothing to learn"
