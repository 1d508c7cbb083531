"""The caption that came with an image: its side-car text file, else a key of its side-car JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from labelers.core import labeler
from labelers.core.compare import texts
from labelers.core.labeler import Labeler, Resources, Sample
from labelers.core.modality import Label, Modality, Null, require
from labelers.core.show import Words


def _check(label: Label) -> None:
    require(isinstance(label, str) and bool(label), "caption: expected a text that is not empty")
    require(label == label.strip(), "caption: blanks at an end")
    require(not any("\ud800" <= letter <= "\udfff" for letter in label), "caption: lone surrogates are not UTF-8")


CAPTION = Modality(
    name="caption", kind="text", container="parquet", arrow=pa.string(),
    encode=lambda label: label, decode=lambda raw: raw, check=_check, compare=texts,
    show=lambda label, image: Words(label),
    about="text as it came, blanks stripped from its ends, never empty",
)  # fmt: skip


def caption_of(sidecars: Mapping[str, bytes], json_keys: Sequence[str]) -> str | Null:
    """The caption in side-car files (by extension), or why there is none.

    "txt" wins over "json"; an empty one counts as absent. Text that is not UTF-8 is refused, not repaired: replacement
    signs would be trained on. The first of `json_keys` that holds a text that is not empty is taken.
    """
    try:
        text = sidecars.get("txt", b"").decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Null("caption_not_utf8")
    if text:
        return text
    if "json" not in sidecars:
        return Null("no_caption")
    try:
        record = json.loads(sidecars["json"])
    except (ValueError, RecursionError):
        return Null("bad_json_sidecar")
    values = [record.get(key) for key in json_keys] if isinstance(record, dict) else []
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not texts:
        return Null("no_caption")
    try:
        texts[0].encode()  # JSON can spell half of a surrogate pair
    except UnicodeEncodeError:
        return Null("caption_not_utf8")
    return texts[0]


class Caption(Labeler):
    """Captions from side-car files."""

    class Params(labeler.Params):
        """json_keys: keys of the JSON side-car to look at, in this order, where there is no text file."""

        json_keys: tuple[str, ...] = ("caption", "text")

    name = "caption"
    version = 1
    backend = "side-car files"
    produces = (CAPTION,)
    resources = Resources(cpu=0.5, batch=256)
    uses_pixels = False

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"caption": caption_of(s.sidecars, self.params.json_keys)} for s in samples]
