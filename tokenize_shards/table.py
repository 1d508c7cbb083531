"""The token table: one row a token modality. Pure data; the trainer, the workers and the config read nothing else.

To add a modality: one labeler file in `labelers/` and one row here. A labeler shipped by another package brings its
rows as a class attribute `tokens` (a tuple of TokenSpec); they are found through the labeler registry.

Two rows hold no tokens, but vectors that a model is shown and never asked for: t5_caption, and the patches of the picture
itself. They are kept as they are, in shards of the same kind, so that the trainer reads them as it reads tokens.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Kind = Literal["vit_vq", "mlp_pq", "sequence", "values"]
Stream = Literal["image", "vector", "sequence", "patches", "embedding"]
Profile = Literal["offline", "published"]

PROFILES: tuple[Profile, ...] = ("offline", "published")

# What an image-like tokenizer sees, and so how a view cuts it (inputs.py) and what is minimised (content.py).
CONTENTS = ("pixels", "edges", "classes", "depth", "normals", "features")
AS_LABELS = 0  # channels
GRAMMARS = ("caption", "color_palette", "metadata", "det", "human_poses", "sam_instance")


@dataclass(frozen=True)
class TokenSpec:
    """One row of the token table: how a modality's labels become tokens, and what the trainer must know about them.

    name: token modality, "tok_rgb". modality: whose labels it reads, "rgb". kind: which tokenizer; "values": none, the
    labels are vectors (T, width) that stay as they are, the first max_tokens of them, or with content "pixels" the
    patches of a picture.
    size: side in pixels of the square view it looks at (0 for labels that are not cut to pixels). patch: pixels a
    token, so that an image-like modality has a grid of (size / patch) squared. channels: of the map or the features,
    or the vector's length; AS_LABELS: as many as the labels have, which differs between backends. vocab: codes a
    position can take; None for sequences, which share one text vocabulary. tokens: how many a view has; None for
    sequences, which have at most max_tokens, without [SOS] and [EOS]. params: settings of this tokenizer alone (network
    width, fitting steps). content: one of CONTENTS for image-like rows, one of GRAMMARS for sequences. shares: name of
    the row whose tokenizer it uses; its own where empty. extra: made only where the configuration names it (other
    resolutions of a modality that has a row already).
    """

    name: str
    modality: str
    kind: Kind
    size: int = 0
    patch: int = 0
    channels: int = 0
    vocab: int | None = None
    tokens: int | None = None
    max_tokens: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    shares: str = ""
    extra: bool = False

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ValueError(f"token table, row {self.name!r}: {problem}")

    def _problem(self) -> str:
        """What is wrong with the row, or an empty string."""
        if not self.name.startswith("tok_"):
            return "the name must start with 'tok_'"
        if self.kind == "sequence":
            if self.content not in GRAMMARS:
                return f"content {self.content!r} is no grammar; use one of {', '.join(GRAMMARS)}"
            bad = self.max_tokens is None or self.vocab is not None or self.tokens is not None
            return "a sequence has max_tokens, and neither vocab nor tokens" if bad else ""
        if self.kind == "values":
            bad = self.max_tokens is None or self.vocab is not None or self.tokens is not None
            if bad:
                return "values have max_tokens, and neither vocab nor tokens"
            grid = self.grid
            return "" if grid is None or self.max_tokens == grid[0] * grid[1] else f"max_tokens is not that of {grid}"
        if self.vocab is None or self.tokens is None or self.max_tokens is not None:
            return f"a {self.kind} row has vocab and tokens, and no max_tokens"
        if not 1 < self.vocab <= 65536:
            return f"vocab {self.vocab} does not fit uint16 tokens; use 2..65536"
        if self.kind == "vit_vq" and self.content not in CONTENTS:
            return f"content {self.content!r} is not known; use one of {', '.join(CONTENTS)}"
        if self.kind == "vit_vq" and (self.patch < 1 or self.size % self.patch):
            return f"size {self.size} is not a multiple of patch {self.patch}"
        if self.kind == "vit_vq" and self.tokens != (self.size // self.patch) ** 2:
            made = (self.size // self.patch) ** 2
            return f"tokens is {self.tokens}, but size {self.size} and patch {self.patch} make {made}"
        return ""

    @property
    def stream(self) -> Stream:
        """How the trainer treats it: tokens on a grid, tokens in fixed slots, a sequence, or vectors that are only shown, on
        a grid or one after another.
        """
        if self.kind == "values":
            return "patches" if self.patch else "embedding"
        streams: dict[Kind, Stream] = {"vit_vq": "image", "mlp_pq": "vector", "sequence": "sequence"}
        return streams[self.kind]

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of an image-like modality's tokens or patches, row-major; None for the others."""
        if not self.patch:
            return None
        side = self.size // self.patch
        return side, side

    @property
    def owner(self) -> str:
        """Name of the row whose tokenizer it uses."""
        return self.shares or self.name

    @property
    def length(self) -> int:
        """The most tokens a view can have."""
        return cast(int, self.tokens if self.tokens is not None else self.max_tokens)


def image_row(
    modality: str, size: int, patch: int, channels: int, vocab: int, content: str = "pixels", shares: str = "", **params: Any
) -> TokenSpec:  # fmt: skip
    """An image-like modality: (size / patch) squared tokens, one codebook."""
    return TokenSpec(
        f"tok_{modality}", modality, "vit_vq", size, patch, channels, vocab, (size // patch) ** 2, params=params,
        content=content, shares=shares,
    )  # fmt: skip


def vector_row(modality: str, size: int, channels: int, vocab: int, tokens: int = 16, **params: Any) -> TokenSpec:
    """A vector of `channels` numbers: `tokens` slots of a product quantiser with `vocab` codes each."""
    return TokenSpec(f"tok_{modality}", modality, "mlp_pq", size, 0, channels, vocab, tokens, params=params)


def sequence_row(modality: str, max_tokens: int, grammar: str = "", **params: Any) -> TokenSpec:
    """Text or a structure, written in the shared text vocabulary by a grammar; that of its own name where none is
    given.
    """
    return TokenSpec(
        f"tok_{modality}", modality, "sequence", max_tokens=max_tokens, params=params, content=grammar or modality
    )


def values_row(modality: str, max_tokens: int) -> TokenSpec:
    """Vectors that are shown as they are; those beyond max_tokens are left out."""
    return TokenSpec(f"tok_{modality}", modality, "values", max_tokens=max_tokens)


def pixels_row(size: int, patch: int) -> TokenSpec:
    """The pictures themselves, as patches. Only where asked for: they take as much room as the pictures do undone."""
    return TokenSpec(
        "tok_rgb_pixels", "rgb", "values", size, patch, 3, max_tokens=(size // patch) ** 2, content="pixels", extra=True
    )


# Lengths are those of 4M-21, but for metadata: 21 fields of 2 tokens, where 4M-21 had 40. A person of BlazePose takes
# 14 tokens (human, box, pose, 8 codes), so 275 hold 19 people, or 7 of SMPL; a box takes 5, so 256 hold 51.
_SEQUENCES = (
    sequence_row("caption", 256),
    sequence_row("color_palette", 23),
    sequence_row("metadata", 42),
    sequence_row("det", 256),
    sequence_row("human_poses", 275, pose_tokens=8, pose_codes=1024),
    sequence_row("smpl_poses", 275, "human_poses", pose_tokens=8, pose_codes=1024),
    sequence_row("sam_instance", 290, mask_size=64, mask_tokens=16, mask_codes=1024),
)


@dataclass(frozen=True)
class _Profile:
    """The sizes of one profile. size, patch: of maps. rgb, semantic, maps: codes of pictures, of class maps, of other
    maps. features: codes of a feature map. vectors: codes of each slot of a vector. The others are settings of the
    networks: of all ViT-VQ, of those that draw what people look at, of those that see several resolutions, in pixels and
    in cells of a feature map, and of vectors.
    """

    size: int
    patch: int
    rgb: int
    semantic: int
    maps: int
    features: int
    vectors: int
    vit: Mapping[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, Any] = field(default_factory=dict)
    sides: Mapping[str, Any] = field(default_factory=dict)
    cells: Mapping[str, Any] = field(default_factory=dict)
    mlp: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> tuple[TokenSpec, ...]:
        maps, features, vectors = self.maps, self.features, self.vectors
        return (
            self._map("rgb", 3, self.rgb, "pixels", self.drawn, self.sides),
            self._map("depth", 1, maps, "depth", self.drawn, self.sides),
            self._map("normal", 3, maps, "normals", self.drawn, self.sides),
            self._map("semseg", 134, self.semantic, "classes", self.sides),
            self._map("canny_edge", 1, maps, "edges", self.drawn),
            image_row("sam_edge", self.size, self.patch, 1, maps, "edges", shares="tok_canny_edge"),
            _with(image_row("clip", 224, 16, 512, features, "features"), self.vit, self.cells),
            _with(image_row("dinov2", 224, 14, AS_LABELS, features, "features"), self.vit),
            _with(image_row("imagebind", 224, 14, 1280, features, "features"), self.vit),
            _with(vector_row("clip_global", 224, 512, vectors), self.mlp),
            _with(vector_row("dinov2_global", 224, AS_LABELS, vectors), self.mlp),
            _with(vector_row("imagebind_global", 224, 1280, vectors), self.mlp),
            _with(vector_row("minilm_caption", 0, 384, vectors), self.mlp),
            *_SEQUENCES,
            values_row("t5_caption", 77),
            pixels_row(self.size, self.patch),
            self._large("rgb", 3, self.rgb, "pixels"),
            self._large("depth", 1, maps, "depth"),
            self._large("normal", 3, maps, "normals"),
            self._large("semseg", 134, self.semantic, "classes"),
            self._large("clip", 512, features, "features"),
        )

    def _map(self, modality: str, channels: int, vocab: int, content: str, *params: Mapping[str, Any]) -> TokenSpec:
        return _with(image_row(modality, self.size, self.patch, channels, vocab, content), self.vit, *params)

    def _large(self, modality: str, channels: int, vocab: int, content: str) -> TokenSpec:
        """The same modality at 448 px: 784 tokens, for super-resolution; by the tokenizer of several resolutions where
        there is one, else by one of its own.
        """
        shares = f"tok_{modality}" if self.sides else ""
        row = image_row(modality, 448, 16, channels, vocab, content, shares)
        return dataclasses.replace(row, name=f"{row.name}@{row.size}", extra=True)


def _with(row: TokenSpec, *params: Mapping[str, Any]) -> TokenSpec:
    """The row with settings of its tokenizer."""
    return dataclasses.replace(
        row, params={key: value for part in (row.params, *params) for key, value in part.items()}
    )


# "offline": what two cores fit in a minute: small patches, which make pictures recognisable at once, and codebooks
# that a few thousand patches, and for vectors a few hundred photos, can fill: a code that one vector made says which it
# was, not what it is like. "published": the grids, vocabularies and networks of 4M-21, for real runs.
_TABLE: Mapping[Profile, tuple[TokenSpec, ...]] = {
    "offline": _Profile(112, 8, rgb=4096, semantic=1024, maps=1024, features=1024, vectors=32).rows(),
    "published": _Profile(
        224, 16, rgb=16384, semantic=4096, maps=8192, features=8192, vectors=8192,
        vit={"size": "B", "batch": 64, "lr": 2e-4}, drawn={"decoder": "diffusion", "diffusion_width": 128},
        sides={"resolutions": (336, 448)}, cells={"resolutions": (21, 28)},
        mlp={"width": 1024, "depth": 6, "batch": 1024},
    ).rows(),
}  # fmt: skip


def _from_packages() -> Iterable[TokenSpec]:
    """Rows that labelers of other packages bring with them."""
    from labelers.core.registry import all_labelers

    for labeler in all_labelers().values():
        yield from cast(Iterable[TokenSpec], getattr(labeler, "tokens", ()))


def specs(profile: str = "offline") -> dict[str, TokenSpec]:
    """Every row by name, in table order. ValueError for an unknown profile, or where a package repeats a name."""
    if profile not in PROFILES:
        raise ValueError(f"no token profile is named {profile!r}; use one of {', '.join(PROFILES)}")
    found = {row.name: row for row in _TABLE[profile]}
    for row in _from_packages():
        if row.name in found:
            raise ValueError(f"a labeler package brings a token row {row.name!r}, which exists already; rename it")
        found[row.name] = row
    return found


def get_spec(name: str, profile: str = "offline", **overrides: Any) -> TokenSpec:
    """The row of that name with settings of the config applied. KeyError names the nearest row."""
    known = specs(profile)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no token modality is named {name!r}{hint} Known: {', '.join(known)}.")
    return configure(known[name], overrides)


def configure(spec: TokenSpec, overrides: Mapping[str, Any]) -> TokenSpec:
    """The row with some values replaced; the grid follows size and patch. ValueError for a key a row does not have.

    overrides: `size`, `patch`, `channels`, `vocab`, `tokens` (vectors), `max_tokens` (sequences), `shares`, and under
    `params` the tokenizer's own settings, merged over the row's.
    """
    settable = ("size", "patch", "channels", "vocab", "tokens", "max_tokens", "shares", "params")
    for key in overrides:
        if key not in settable:
            near = difflib.get_close_matches(key, settable, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"token modality {spec.name}: unknown setting {key!r}{hint} Known: {', '.join(settable)}.")
    values = dict(overrides)
    values["params"] = {**spec.params, **values.get("params", {})}
    size, patch = values.get("size", spec.size), values.get("patch", spec.patch)
    length = "max_tokens" if spec.kind == "values" else "tokens"
    if spec.grid and patch >= 1 and length not in values:
        values[length] = (size // patch) ** 2
    return dataclasses.replace(spec, **values)
