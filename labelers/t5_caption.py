"""t5_caption: the caption as a T5 encoder reads it, one vector a token; what a model sees of a text, never predicts.

Any T5 encoder will do, T5-XXL (v1.1) being the published choice. A caption has as many vectors as tokens and no padding
on storage: padded to 77 x 4096 floats, as published, a sample would take 1.26 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from labelers.core.compare import cosine
from labelers.core.features import from_npy, to_npy
from labelers.core.labeler import Licence, Resources, Sample
from labelers.core.modality import Label, Modality, Null, require
from labelers.core.networks import NetworkLabeler, NetworkParams, load_tokenizer
from labelers.core.show import Cell, Picture

MOST_TOKENS = 512


def _check(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.float16, "t5_caption: expected a float16 array")
    good = label.ndim == 2 and 1 <= label.shape[0] <= MOST_TOKENS and label.shape[1] > 0
    require(good, f"t5_caption: expected (tokens, width) with 1 to {MOST_TOKENS} tokens, got {label.shape}")
    require(bool(np.isfinite(label).all()), "t5_caption: not finite")


def _compare(a: NDArray[np.float16], b: NDArray[np.float16]) -> dict[str, float]:
    """The cosine of the tokens one by one; where their number differs, of the means."""
    if a.shape[1] == b.shape[1] and a.shape != b.shape:
        return cosine(a.astype(np.float64).mean(axis=0), b.astype(np.float64).mean(axis=0))
    return cosine(a, b)


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    """Each token a row, its first 64 numbers from blue (negative) over white to red (positive)."""
    shown = label[:64, :64].astype(np.float32)
    shown = shown / (np.abs(shown).max() + 1e-9)
    up, down = np.clip(shown, 0, 1), np.clip(-shown, 0, 1)
    pixels = (np.stack([1 - down, 1 - up - down, 1 - up], axis=-1) * 255).astype(np.uint8)
    return Picture(pixels.repeat(4, axis=0).repeat(4, axis=1), f"{len(label)} tokens of {label.shape[1]} numbers")


T5_CAPTION = Modality(
    name="t5_caption", kind="embeddings", container="tar", ext="npy", encode=to_npy,
    decode=lambda data: from_npy(data, "t5_caption"), check=_check, show=_show, compare=_compare,
    about="float16 (tokens, width): the last hidden state of a T5 encoder for each token of the caption, the end sign "
    "included, no padding; width 512 (small) to 4096 (XL, XXL)",
)  # fmt: skip


class T5Params(NetworkParams):
    """max_tokens: what is longer is cut, the end sign kept; the published system's 77. T5 overflows in float16."""

    max_tokens: int = Field(77, ge=2, le=MOST_TOKENS)


class T5Caption(NetworkLabeler):
    """The encoder's last hidden states for the caption."""

    name = "t5_caption"
    version = 1
    backend = "T5 v1.1 XXL encoder (transformers)"
    produces = (T5_CAPTION,)
    reads = ("caption",)
    resources = Resources(cpu=1.0, gpu=0.5, batch=32)
    uses_pixels = False
    weights = {"model": "hf:google/t5-v1_1-xxl@3db67ab1af984cf10548a73467f0e5bca2aaaeb2"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "T5EncoderModel"
    Params = T5Params

    def setup(self) -> None:
        super().setup()
        self._tokenizer = load_tokenizer(self.files["model"])

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        captions = [s.labels.get("caption", Null("not labelled")) for s in samples]
        texts = {i: text for i, text in enumerate(captions) if not isinstance(text, Null)}
        ids = {i: self._ids(text) for i, text in texts.items()}
        found = self._encoded(ids)
        return [
            {"t5_caption": found[i] if i in found else Null(f"no caption: {caption.reason}")}
            for i, caption in enumerate(captions)
        ]

    def _ids(self, text: str) -> tuple[int, ...]:
        limit = self.params.max_tokens
        return tuple(self._tokenizer(text, truncation=True, max_length=limit).input_ids)

    def _encoded(self, ids: dict[int, tuple[int, ...]]) -> dict[int, Label | Null]:
        """Captions of one length go together, so that none is padded and each has one result whatever its neighbours are
        long.
        """
        found: dict[int, Label | Null] = {}
        for length in sorted({len(one) for one in ids.values()}):
            members = [i for i, one in ids.items() if len(one) == length]
            for start in range(0, len(members), self.step):
                part = members[start : start + self.step]
                for i, states in zip(part, self._states([ids[i] for i in part]), strict=True):
                    finite = bool(np.isfinite(states).all())
                    found[i] = states if finite else Null("the network gave values that float16 cannot hold")
        return found

    def _states(self, ids: Sequence[tuple[int, ...]]) -> NDArray[np.float16]:
        import torch

        with torch.inference_mode():
            batch = torch.tensor(ids, device=self.device)
            out: Any = self.network(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
        with np.errstate(over="ignore"):
            return np.asarray(out.float().cpu().numpy().astype(np.float16))
