"""The settings of a training run, typed: an unknown key or a senseless value is an error before anything starts."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError
from trainer.mixture import Component, all2all, demo, published, steering

# These may differ between a run and its resumption: they change how it is computed or kept, not what is learned.
FREE = frozenset({
    "save_every", "keep", "keep_every", "log_every", "eval_every", "eval_samples", "accumulate", "strategy", "workers",
    "launcher", "gpus", "compile", "recompute", "tensorboard", "wandb", "stale", "block",
})  # fmt: skip


# What takes the place of T5 embeddings in the published mixture: the first of these that the data has.
EMBEDDINGS = ("tok_t5_caption", "tok_minilm_caption")
# What says most of a whole picture in few tokens, the first of these that the data has.
SAYS = ("tok_dinov2_global", "tok_clip_global", "tok_minilm_caption", "tok_caption")
SHOWN = {"tok_t5_caption", "tok_rgb_pixels"}  # and never asked for


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSource(_Section):
    """Another data set to train on. weight: how often a sample comes from it. modalities: token modalities, null: all."""

    root: str
    weight: float = Field(1.0, gt=0)
    modalities: list[str] | None = None


class TextSource(_Section):
    """A text-only corpus: a .parquet or .txt file (a document a line), a folder or a pattern. column: of Parquet.
    stream: the sequence modality it is read as.
    """

    path: str
    weight: float = Field(0.25, gt=0)
    column: str = "text"
    stream: str = "tok_caption"


class ComponentConfig(_Section):
    """One way to mask, see trainer/mixture.py. inputs, targets: stream or shell pattern -> alpha. keep: shown whole.
    few: how often little is shown beside it.
    """

    name: str
    weight: float = Field(1.0, gt=0)
    inputs: dict[str, float] = {"*": 1.0}
    targets: dict[str, float] = {"*": 1.0}
    keep: list[str] = []
    few: float = Field(0.0, ge=0)

    def component(self) -> Component:
        return Component(self.name, self.weight, self.inputs, self.targets, tuple(self.keep), self.few)


class TrainConfig(_Section):
    """Settings of a training run.

    batch: samples of a step, over all workers and accumulated parts. n_in, n_out: tokens a sample shows and is asked
    for. start: "codes" lets tables and heads begin with what the tokenizers know (see start.py). eps: AdamW's for tables
    and heads; 3e-4 for a laptop's few steps, where a row is met a few times and should move by what was said of it, not
    by a whole step. holdout: share of photos left out. heldout_views: how many views of every other photo are left out,
    the last ones; null: one where a photo has four or more, none where it has fewer; of this data set alone, which is
    the one that is judged. loss: mean over the streams of their means, or over all tokens. ema: decay of the averaged
    weights, 0 for none; where there are any, they are what is published. keep: checkpoints kept beside those of every
    keep_every-th step. precision: of products; auto is bf16 where the device multiplies it by itself, else fp32, which is
    what other numbers of workers give the same losses in. compile: for a GPU; a CPU is faster without. block: samples
    masked together, null: what a worker takes at a time.
    """

    name: str = Field("model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    size: Literal["micro", "tiny", "S", "B", "L", "XL"] = "micro"
    steps: int = Field(300, ge=1)
    batch: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(1e-3, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    clip: float = Field(1.0, gt=0)
    eps: float = Field(1e-8, gt=0)
    ema: float = Field(0.0, ge=0, lt=1)
    n_in: int = Field(128, ge=1)
    n_out: int = Field(96, ge=1)
    mixture: Literal["demo", "published", "steering"] | list[ComponentConfig] = "demo"
    loss: Literal["streams", "tokens"] = "streams"
    tied: bool = False
    start: Literal["codes", "random"] = "codes"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    recompute: bool = False
    modalities: list[str] | None = None
    weight: float = Field(1.0, gt=0)
    datasets: list[DataSource] = []
    text: list[TextSource] = []
    stale: bool = False
    holdout: float = Field(0.15, ge=0, lt=1)
    heldout_views: int | None = Field(None, ge=0)
    seed: int = Field(0, ge=0)
    block: int | None = Field(None, ge=1)
    save_every: int = Field(200, ge=1)
    keep: int = Field(2, ge=1)
    keep_every: int = Field(0, ge=0)
    eval_every: int = Field(0, ge=0)
    eval_samples: int = Field(64, ge=1)
    log_every: int = Field(10, ge=1)
    tensorboard: bool = True
    wandb: str | None = None
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    workers: int = Field(1, ge=1)
    launcher: Literal["local", "ray"] = "local"
    gpus: bool | None = None

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        share = self.workers * self.accumulate
        if self.batch % share:
            near = max(share, round(self.batch / share) * share)
            raise ValueError(
                f"batch: {self.batch} samples cannot be divided evenly over {self.workers} workers and {self.accumulate} "
                f"accumulated parts; use {near}"
            )
        return self

    def learned_alike(self, other: dict[str, object]) -> str | None:
        """The first setting in which a recorded run differs so that it cannot be gone on with, or None."""
        mine = self.model_dump(mode="json")
        return next((k for k in mine if k not in FREE and other.get(k, mine[k]) != mine[k]), None)


def components(config: TrainConfig, names: list[str]) -> tuple[Component, ...]:
    """The mixture of a run; the ready-made ones fall back to any streams from any where there is no RGB."""
    if isinstance(config.mixture, list):
        for part in config.mixture:
            for name in (*part.inputs, *part.targets, *part.keep):
                if not any(fnmatchcase(stream, name) for stream in names):
                    raise ConfigError(
                        f"train.mixture: {part.name}: {name!r} is no stream that is trained on. There are: {', '.join(names)}."
                    )
        return tuple(part.component() for part in config.mixture)
    if "tok_rgb" not in names or len(set(names) - SHOWN) < 2:
        return (all2all(0.1), all2all(1.0))
    if config.mixture == "published":
        return published(embedding=next((n for n in EMBEDDINGS if n in names), None))
    if config.mixture == "steering":
        return steering(says=next((n for n in SAYS if n in names), None))
    return demo()
