"""What a model knows before its first step: which tokens are alike, and how often each occurs. Nothing is trained here.

Started at random, a model learns of each code alone what it means, which takes more photos and steps than a laptop has.
So rows of the tables and of the heads start from the codebooks of the tokenizers: codes that decode to similar patches
have similar rows, and what is learned of one holds for its neighbours. So do numbers that are near each other, of which
text has a token each: of 256 reds a few hundred photos show most once or never. Tokens start as large as their places, which
would drown them otherwise. One head of each cross-attention starts by looking at the place that is asked for and at
its neighbours, because the maps of a view show the same thing at the same place: without it, learning where to look
takes most of a laptop's steps. And the output heads start at the logarithm of how often each
token of each stream occurs in training, by least squares over the decoder's states for a first batch: the first loss is
that of counting, and only what lies beyond is left to learn. Published models, tied heads and `start: random` are not
touched.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_shards.wordpiece import AXES, BINS, CLASS, COORDINATE
from trainer.blocks import DecoderBlock
from trainer.evaluate import unigrams
from trainer.feed import tensors
from trainer.loader import Blend, Loader
from trainer.loss import states
from trainer.masking import Masker
from trainer.model import Model
from trainer.streams import TEXT

TABLE, MODALITY, HEAD = 1.0, 0.5, 0.03  # root mean square of a row's numbers
SHARP = 5.0  # of queries and keys of the head that looks at its own place
WAVES = 4  # of rows and of columns that it reads
OWN = 0.3  # share of a row of a table that no other code has
PERIODS = 2.0 ** np.arange(6, 12)  # of the waves that write a number: 64 to 2048, for 50 bins as for 1000
SAMPLES, COUNTED = 32, 5_000
RIDGE = 0.01  # of the mean square of the states


@torch.no_grad()
def start(model: Model, data: Blend, masker: Masker, seed: int) -> None:
    """Set tables and heads as the module says. The same on every process of a run: it follows from data and seed."""
    generator = torch.Generator().manual_seed(seed)
    model.table.weight.mul_(TABLE / model.table.weight.std())
    model.modality.weight.mul_(MODALITY / model.modality.weight.std())
    for index, stream in enumerate(model.streams):
        codes = next((found for c in data.corpora if (found := c.codes(stream.name)) is not None), None)
        if codes is not None and codes.shape == (stream.vocab, codes.shape[1]):
            _alike(model, index, torch.from_numpy(codes), generator)
    if model.vocab.get(TEXT, 0) >= CLASS:
        _numbers(model, generator)
    _same_place(model)
    _frequencies(model, data, masker, seed)


def _same_place(model: Model) -> None:
    """The first head of each cross-attention looks at the place that is asked for: its queries and keys read the quickest
    waves of the positions, which nothing else is written over.
    """
    dim = model.size.dim
    if model.size.heads < 2:
        return  # the only head must look at everything
    waves = torch.arange(WAVES) * max(1, dim // 192)  # about as quick in every size
    waves = torch.cat([waves + i * (dim // 4) for i in range(4)])  # sine and cosine of the row, and of the column
    model.modality.weight[:, waves] = 0.0
    model.context_proj.weight[waves] = 0.0
    for block in model.decoder:
        assert isinstance(block, DecoderBlock)
        attention = block.cross_attn
        for writes in (block.self_attn.proj, attention.proj, block.mlp.down):
            writes.weight[waves] = 0.0
        for looks in (attention.q.weight[: len(waves)], attention.kv.weight[: len(waves)]):
            looks.zero_()
            looks[torch.arange(len(waves)), waves] = SHARP


def _numbers(model: Model, generator: torch.Generator) -> None:
    """Rows of coordinate tokens from waves of their values, the same on every axis, beside a share of the axis."""
    value = np.arange(BINS)[:, None] / PERIODS * 2 * np.pi
    waves = torch.from_numpy(np.concatenate([np.sin(value), np.cos(value)], axis=1)).float() / len(PERIODS) ** 0.5
    index = next(i for i, s in enumerate(model.streams) if s.table == TEXT)
    codes = torch.cat([waves.repeat(AXES, 1), torch.eye(AXES).repeat_interleave(BINS, 0)], dim=1)
    _alike(model, index, codes, generator, COORDINATE)


def _alike(model: Model, index: int, codes: Tensor, generator: torch.Generator, at: int = 0) -> None:
    """Rows of one stream, from token `at` on, from their codes (n, k), turned into the width of the model at random."""
    stream, dim, device = model.streams[index], model.size.dim, model.table.weight.device
    codes = codes.float() - codes.float().mean(0)
    codes = codes / codes.square().sum(1).mean().sqrt().clamp(min=1e-6)
    if codes.shape[1] > dim:
        codes = codes @ torch.linalg.svd(codes, full_matrices=False)[2][:dim].T
    turns = [torch.linalg.qr(torch.randn(dim, codes.shape[1], generator=generator))[0].T * dim**0.5 for _ in range(2)]
    first = int(model.table_start[index]) + at
    rows = model.table.weight[first : first + len(codes)]
    rows.copy_(TABLE * (1 - OWN**2) ** 0.5 * (codes @ turns[0]).to(device) + OWN * rows)
    model.head_weights()[stream.table][at : at + len(codes)].copy_(HEAD * codes @ turns[1])


def _frequencies(model: Model, data: Blend, masker: Masker, seed: int) -> None:
    """Give each head what makes it say the training frequencies of the stream that is asked for."""
    hidden, stream = _states(model, data, masker, seed)
    which = F.one_hot(stream, len(model.streams)).double()
    products = hidden.T @ hidden
    ridge = RIDGE * products.diagonal().mean().clamp(min=1e-12) * torch.eye(len(products), dtype=products.dtype)
    # Direction s of the hidden space answers 1 where stream s is asked for, 0 elsewhere.
    directions = torch.linalg.solve(products + ridge, hidden.T @ which)
    mean = (which.T @ hidden) / which.sum(0).clamp(min=1)[:, None]
    heads = model.head_weights()
    before = {name: weight.detach().double().cpu().clone() for name, weight in heads.items()}
    for s, guess in enumerate(_guesses(model, data)):
        if guess is not None:
            table = model.streams[s].table
            missing = guess - guess.mean() - before[table] @ mean[s]
            heads[table] += (missing[:, None] * directions[:, s]).to(heads[table])


def _guesses(model: Model, data: Blend) -> list[Tensor | None]:
    """Log-frequencies of the tokens of each stream of the model, by the first data set that has it."""
    found: dict[str, np.ndarray] = {}
    for corpus in data.corpora:
        missing = {s.name for s in corpus.streams} - found.keys()
        if missing:
            found = {**unigrams(corpus, COUNTED), **found}
    return [torch.from_numpy(found[s.name]) if s.name in found else None for s in model.streams]


def _states(model: Model, data: Blend, masker: Masker, seed: int) -> tuple[Tensor, Tensor]:
    """Decoder states of the targets of a first batch, (R, d) float64, and the stream of each, on the CPU."""
    picks = Loader(data, SAMPLES, seed).plan()
    masked = masker(data.gather(picks), np.random.default_rng([seed, 11]), picks.source)
    batch = tensors(masked, model.table.weight.device)
    real = batch["out_mask"]
    return states(model, batch)[real].double().cpu(), batch["out_stream"][real].cpu()
