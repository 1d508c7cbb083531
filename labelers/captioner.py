"""Captions by a network, for images that came without one: what the backends share, from texts to labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from labelers.caption import CAPTION
from labelers.core.labeler import Resources, Sample
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkLabeler, load_tokenizer


class Captioner(NetworkLabeler):
    """Base of labelers whose network gives a text for each image."""

    produces = (CAPTION,)
    resources = Resources(cpu=1.0, gpu=0.25, batch=16)

    def setup(self) -> None:
        super().setup()
        self._tokenizer = load_tokenizer(self.files["model"])

    @abstractmethod
    def run(self, pixels: Any) -> Any:
        """Ids of the checkpoint's own tokenizer, (n, T)."""

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        texts = self.batched([s.image for s in samples], self._texts, full=True)
        return [{"caption": text or Null("the network said nothing")} for text in texts]

    def _texts(self, ids: Any) -> list[str]:
        return [" ".join(text.split()) for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]
