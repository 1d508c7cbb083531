"""`manymodal evaluate`: the table of published tasks, and of every other modality, for one model and data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labelers.core.compare import psnr
from labelers.core.modality import Label, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.care.promote import parse_ref
from pipeline.care.verify import refs_on
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tokenize_shards.table import TokenSpec, get_spec, specs
from trainer.evaluation.ensemble import ensembled
from trainer.evaluation.frames import labels_in_view
from trainer.evaluation.measures import DepthErrors, InstanceScores, MeanScores, PoseScores, VectorScores
from trainer.generate.chain import Request, run_chain
from trainer.generate.decoding import Decoding
from trainer.generate.job import BATCH, Spot
from trainer.lexicon import PREFIX, Lexicon
from trainer.predict import Predictor, trained_targets
from trainer.transfer.tasks import class_of

Progress = Callable[[str, int, int, str], None]
COLUMNS = ("model_vs_labels", "labels_vs_truth", "model_vs_truth", "tokenizer_bound")
SCORELESS = ("det", "sam_instance")  # grammars whose tokens do not say how sure a box or mask is
# The published tasks: modality, score, what it is called there. They are rows of every table, empty where not measured.
PUBLISHED = (
    ("normal", "mean_angle", "surface normals, mean angle in degrees"), ("depth", "loss_l1", "depth, L1 after alignment"),
    ("depth", "abs_rel", "depth, AbsRel"), ("depth", "d1", "depth, d1"), ("semseg", "miou", "semantic segmentation, mIoU"),
    ("sam_instance", "ap", "instances, AP"), ("det", "ap", "detection, AP"), ("det", "ap50", "detection, AP at 0.5"),
    ("human_poses", "mpjpe_mm", "pose, error in mm"), ("human_poses", "pa_mpjpe_mm", "pose, error in mm after alignment"),
    ("dinov2_global", "top1", "retrieval, top-1"), ("dinov2_global", "top5", "retrieval, top-5"),
    ("dinov2_global", "knn_top1", "kNN, top-1"), ("dinov2_global", "knn_top5", "kNN, top-5"),
)  # fmt: skip


@dataclass
class Table:
    """rows: (modality, score) -> column -> value, only what was measured. perplexity: of each modality's tokens in
    held-out photos. heldout, heldout_views: losses beside guesses that see nothing, as training measured them (see
    trainer/evaluate.py). samples: evaluated. pairs: modality -> column -> samples that had both sides. notes: what to know
    of a modality.
    """

    rows: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    perplexity: dict[str, float] = field(default_factory=dict)
    heldout: dict[str, dict[str, Any]] = field(default_factory=dict)
    heldout_views: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: int = 0
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def put(self, modality: str, column: str, scores: Mapping[str, float], pairs: int) -> None:
        if scores:
            self.pairs.setdefault(modality, {})[column] = pairs
        for score, value in scores.items():
            if np.isfinite(value):
                self.rows.setdefault((modality, score), {})[column] = float(value)

    def to_json(self) -> dict[str, Any]:
        """Every published task and every other row; None where there is no value."""
        names = {(m, s): title for m, s, title in PUBLISHED}
        keys = [*names, *(key for key in self.rows if key not in names)]
        rows = [
            {"modality": m, "score": s, "task": names.get((m, s)), **{c: self.rows.get((m, s), {}).get(c) for c in COLUMNS}}
            for m, s in keys
        ]  # fmt: skip
        return {
            "samples": self.samples, "pairs": dict(self.pairs), "rows": rows, "perplexity": dict(self.perplexity),
            "heldout": self.heldout, "heldout_views": self.heldout_views, "notes": dict(self.notes),
        }  # fmt: skip


def truth_recipe(ds: Dataset, modality: str, chosen: Mapping[str, str]) -> str | None:
    """The recipe that is the ground truth of a modality: the one named, or the only one that was imported."""
    if modality in chosen:
        return chosen[modality]
    made = {r: str(ds.recipe(r)["labeler"]) for m, r in refs_on(ds) if m == modality}
    imported = [r for r, by in made.items() if by.startswith("import") and by != "import_4m"]  # those are pseudo-labels
    if len(imported) > 1:
        raise ConfigError(
            f"{modality}: has {len(imported)} imported recipes; name the truth with --truth {modality}@{imported[0]}"
        )
    return imported[0] if imported else None


def truths_of(ds: Dataset, texts: Sequence[str]) -> dict[str, str]:
    """--truth MODALITY@RECIPE options by modality."""
    return dict(parse_ref(ds, text) for text in texts)


class Evaluation:
    """One evaluation. predictor: None compares labels, truth and tokens only. classes: of samples, by id or file name."""

    def __init__(
        self, ds: Dataset, predictor: Predictor | None, sources: Sequence[str], targets: Sequence[str], seed: int, *,
        how: Decoding, variants: int = 1, view: int = 0, truths: Mapping[str, str] | None = None,
        classes: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.ds, self.predictor, self.seed = ds, predictor, seed
        self.how, self.variants, self.view = how, variants, view
        self.lexicon, self.truths, self.classes = Lexicon(ds), dict(truths or {}), dict(classes or {})
        self.sources = [self.lexicon.name(n) for n in sources] if predictor is not None else []
        named = [self._name(n) for n in targets]
        readable = [n for n in self.lexicon.recipes if self.lexicon.readable(n)]
        self.targets = named or [*readable, *self._without_tokens()]
        self.lexicon.check_view([n for n in (*self.sources, *self.targets) if n in self.lexicon.recipes], view)
        if view < 0:
            raise ConfigError(f"view {view}: is less than 0")
        if predictor is not None:
            for name in self.sources:
                predictor.stream(name)
            for name in [self.lexicon.name(n) for n in targets]:
                predictor.require_target(name)
            self.lexicon.check(predictor.record, [n for n in (*self.sources, *self.targets) if n in predictor.streams])

    def _name(self, text: str) -> str:
        """The row of the token table a person means; without a model it may be of a modality that has no tokens."""
        name = text if text.startswith(PREFIX) else PREFIX + text
        labelled = name.removeprefix(PREFIX) in self.ds.manifest().modalities and name in specs()
        return name if self.predictor is None and labelled else self.lexicon.name(text)

    def _without_tokens(self) -> list[str]:
        """Rows of modalities that have no tokens, but a ground truth: imported labels, or for vectors classes."""
        found = []
        for name in self.ds.manifest().modalities:
            row = specs().get(PREFIX + name)
            if row is None or row.name in self.lexicon.recipes:
                continue
            if (row.kind == "mlp_pq" and self.classes) or truth_recipe(self.ds, name, self.truths) is not None:
                found.append(row.name)
        return found

    def _spec(self, name: str) -> TokenSpec:
        return self.lexicon.spec(name) if name in self.lexicon.recipes else get_spec(name)

    def run(self, spots: Sequence[Spot], progress: Progress = lambda *_: None) -> Table:
        table = Table(samples=len(spots))
        if self.predictor is not None:
            record = self.predictor.record
            held, table.heldout_views = record.get("heldout", {}), record.get("heldout_views", {})
            table.heldout, table.perplexity = (
                held,
                {n.removeprefix(PREFIX): math.exp(h["loss"]) for n, h in held.items()},
            )
        for done, name in enumerate(self.targets):
            progress("evaluate", done, len(self.targets), name)
            self._one(table, name, spots)
        progress("evaluate", len(self.targets), len(self.targets), "")
        return table

    def _one(self, table: Table, name: str, spots: Sequence[Spot]) -> None:
        """All columns of one token modality."""
        spec = self._spec(name)
        modality, short = all_modalities().get(spec.modality), name.removeprefix(PREFIX)
        labels: Sequence[Label | Null | None] = [None] * len(spots)
        if recipe := self.ds.manifest().modalities.get(spec.modality):
            labels = labels_in_view(self.lexicon, spec, recipe, spots, self.view, self.seed)
        else:
            table.notes[short] = "has tokens and no labels"
        if name in self.lexicon.recipes:
            decoded = self._decoded(name, spots)
            if modality is not None and modality.on_view:
                labels = decoded
                table.notes[short] = "labels are the embedding's own tokens, decoded"
            else:
                self._put(table, COLUMNS[3], short, modality, decoded, labels, spots)
        elif modality is not None and modality.on_view:
            table.notes[short] = "labels are the embeddings of the whole image: there are no tokens"
        truth = self._truth(table, spec, modality, labels, spots)
        predicted = self._predicted(name, spots)
        if predicted is not None:
            self._put(table, COLUMNS[0], short, modality, predicted, labels, spots)
            if truth is not None:
                self._put(table, COLUMNS[2], short, modality, predicted, truth, spots)
        if {COLUMNS[0], COLUMNS[2], COLUMNS[3]} & set(table.pairs.get(short, ())) and spec.content in SCORELESS:
            notes = [table.notes.get(short), "tokens hold no scores: all count as equally sure"]
            table.notes[short] = "; ".join(filter(None, notes))

    def _truth(
        self, table: Table, spec: TokenSpec, modality: Modality | None, labels: Sequence[Label | Null | None],
        spots: Sequence[Spot],
    ) -> Sequence[Label | Null | None] | None:  # fmt: skip
        """The ground truth of one row, None where there is none; scores the labels against it. Classes of samples are the
        truth of a vector: are its neighbours of its class?
        """
        short = spec.name.removeprefix(PREFIX)
        if modality is None:
            return None
        if modality.kind == "vector" and self.classes:
            self._put(table, COLUMNS[1], short, modality, labels, labels, spots, only="knn_")
        recipe = truth_recipe(self.ds, spec.modality, self.truths)
        if recipe is None:
            return None
        if recipe == self.ds.manifest().modalities.get(spec.modality):
            table.notes[short] = (
                f"its labels are the ground truth, {spec.modality}@{recipe}: promote others to judge them"
            )
            return labels
        truth = labels_in_view(self.lexicon, spec, recipe, spots, self.view, self.seed)
        self._put(table, COLUMNS[1], short, modality, labels, truth, spots)
        return truth

    def _decoded(self, name: str, spots: Sequence[Spot]) -> list[Label | Null | None]:
        return self.lexicon.decode(name, [self._tokens(name, spot) for spot in spots])

    def _tokens(self, name: str, spot: Spot) -> np.ndarray | None:
        shard = self.lexicon.shard(name, spot[0])
        return shard.row(spot[1], self.view % shard.meta.views)

    def _predicted(self, name: str, spots: Sequence[Spot]) -> list[Label | Null | None] | None:
        """What the model says of each sample, ensembled over variants; None where it cannot be asked."""
        given = [n for n in self.sources if n != name]
        if self.predictor is None or name not in self.predictor.streams or not given:
            return None
        asked = trained_targets(self.predictor.record, list(self.predictor.streams))
        if self.predictor.streams[name][1].values or (asked is not None and name not in asked):
            return None
        rounds: list[list[Label | Null | None]] = []
        for variant in range(self.variants):
            tokens: list[np.ndarray | None] = []
            for at in range(0, len(spots), BATCH):
                part = spots[at : at + BATCH]
                shown = {n: [self._tokens(n, spot) for spot in part] for n in given}
                keys = [f"{self.ds.ids(k)[row]}:{self.view}:{variant}" for k, row in part]
                request = Request((name,), {name: self.how})
                tokens += run_chain(self.predictor, self.lexicon, request, shown, {}, keys).tokens[name]
            rounds.append(self.lexicon.decode(name, tokens))
        spec, modality = self.lexicon.spec(name), self.lexicon.modality(name)
        return [ensembled(spec, modality, labels) for labels in zip(*rounds, strict=True)]

    def _put(
        self, table: Table, column: str, name: str, modality: Modality | None, found: Sequence[Label | Null | None],
        truth: Sequence[Label | Null | None], spots: Sequence[Spot], only: str = "",
    ) -> None:  # fmt: skip
        """Scores over the samples that have both, of names that begin with `only`; none where there is no such sample."""
        pooled: Any = self._pool(name, modality, spots)
        pairs = 0
        for a, b in zip(found, truth, strict=True):
            if a is None or b is None or isinstance(a, Null) or isinstance(b, Null):
                if isinstance(pooled, VectorScores):
                    pooled.skip()
                continue
            pooled.add(a, b)
            pairs += 1
        if pairs:
            table.put(name, column, {key: v for key, v in pooled.result().items() if key.startswith(only)}, pairs)

    def _pool(self, name: str, modality: Modality | None, spots: Sequence[Spot]) -> Any:
        if modality is None:
            return MeanScores(psnr)
        if modality.kind == "vector":
            return VectorScores([self._class(spot) for spot in spots])
        if name == "sam_instance":
            return InstanceScores()
        if name == "human_poses":
            return PoseScores()
        if modality.name == "depth":
            return DepthErrors()
        return modality.scores() if modality.scores is not None else MeanScores(modality.compare)

    def _class(self, spot: Spot) -> str | None:
        return class_of(self.classes, self.ds.index(spot[0])[spot[1]])
