"""`manymodal generate`: chosen samples of a data set, generated in batches, written as label shards and shown on a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from labelers.core.modality import Label, Null
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.records import Commit
from tokenize_shards.sequence import SequenceTokenizer
from trainer.checkpoint import MODEL
from trainer.generate.chain import Made, Request, run_chain, run_expected
from trainer.generate.decoding import Decoding, Part
from trainer.generate.given import region, sequence_part
from trainer.generate.palettes import whole_palettes
from trainer.generate.write import checked, modality_of, recipe_for, write_shard
from trainer.lexicon import Lexicon
from trainer.predict import Predictor

BATCH = 16
Progress = Callable[[str, int, int, str], None]
Spot = tuple[int, int]  # (shard, row)


@dataclass(frozen=True)
class Order:
    """What the command was asked for. sources, targets: token modalities. given: token modality -> text of the command
    line. view: whose tokens are read. variants: how many results a sample; only the first is written as a label.
    """

    sources: tuple[str, ...]
    request: Request
    given: Mapping[str, str] = field(default_factory=dict)
    view: int = 0
    variants: int = 1
    model: str = "model"


@dataclass
class Result:
    """One sample's cells. shown: what the model was given, by stream; tokens: (variant) -> target -> tokens or None."""

    spot: Spot
    id: str
    shown: dict[str, np.ndarray | Part | None]
    tokens: list[dict[str, np.ndarray | None]]
    reasons: dict[str, str]


class Job:
    """One run of the command over a data set. ConfigError for whatever cannot be generated, before anything is."""

    def __init__(self, ds: Dataset, predictor: Predictor, order: Order) -> None:
        self.ds, self.predictor, self.order = ds, predictor, order
        self.lexicon = Lexicon(ds)
        names = (*order.sources, *order.request.targets, *order.given)
        for name in names:
            self.lexicon.name(name)
            predictor.stream(name)
        self.lexicon.check(predictor.record, names)
        for target in order.request.targets:
            predictor.require_target(target)
            order.request.how[target].order_for(predictor.stream(target)[1])
            if target in order.sources and target not in order.given:
                short = target.removeprefix("tok_")
                raise ConfigError(
                    f"{short}: is given whole, so there is nothing to generate. Give a part: --given {short}=left"
                )
        self.lexicon.check_view(names, order.view)

    @property
    def of_samples(self) -> bool:
        """Whether anything of a sample is looked at: what is written by hand is the same for all."""
        return bool(self.order.sources) or any(self.lexicon.spec(n).stream != "sequence" for n in self.order.given)

    def run(self, spots: Sequence[Spot], progress: Progress = lambda *_: None) -> Iterator[Result]:
        """Results of the samples, in their order."""
        for at in range(0, len(spots), BATCH):
            progress("generate", at, len(spots), "")
            yield from self._batch(spots[at : at + BATCH])
        progress("generate", len(spots), len(spots), "")

    def _batch(self, spots: Sequence[Spot]) -> list[Result]:
        ids = [self.ds.ids(k)[row] for k, row in spots]
        conditions, parts = self.given(spots)
        made: list[Made] = []
        for keys in self._keys(ids):
            made.append(run_chain(self.predictor, self.lexicon, self.order.request, conditions, parts, keys))
        return [
            Result(
                spot, id, {**{n: t[i] for n, t in conditions.items()}, **{n: p[i] for n, p in parts.items()}},
                [{name: tokens[i] for name, tokens in one.tokens.items()} for one in made],
                {name: reasons[i] for name, reasons in made[0].reasons.items()},
            )
            for i, (spot, id) in enumerate(zip(spots, ids, strict=True))
        ]  # fmt: skip

    def expected(self, target: str, spots: Sequence[Spot]) -> Iterator[tuple[Spot, list[Label]]]:
        """What the model expects of one target, for each variant of what is drawn before it; no label where a sample has
        nothing it could be told from. ConfigError for targets that have no average.
        """
        if not self.averages(target):
            raise ConfigError(f"{target}: has no average, or a part of it is given; generate it")
        request = self.order.request
        drawn = request.chain and request.targets.index(target) > 0
        for at in range(0, len(spots), BATCH):
            some = spots[at : at + BATCH]
            conditions, parts = self.given(some)
            variants = [
                run_expected(self.predictor, self.lexicon, request, target, conditions, parts, keys)
                for keys in self._keys([self.ds.ids(k)[row] for k, row in some])[: None if drawn else 1]
            ]
            for spot, labels in zip(some, zip(*variants, strict=True), strict=True):
                yield spot, [label for label in labels if label is not None]

    def averages(self, target: str) -> bool:
        """Whether `expected` can tell of a target."""
        return target not in self.order.given and self.lexicon.averages(target)

    def _keys(self, ids: Sequence[str]) -> list[list[str]]:
        """A name of each sample, for each variant."""
        return [[f"{id}:{self.order.view}:{variant}" for id in ids] for variant in range(self.order.variants)]

    def given(
        self, spots: Sequence[Spot]
    ) -> tuple[dict[str, Sequence[np.ndarray | Part | None]], dict[str, list[Part | None]]]:
        """Conditions by stream, and what is known of targets."""
        ids = [self.ds.ids(k)[row] for k, row in spots]
        conditions: dict[str, Sequence[np.ndarray | Part | None]] = {
            name: [self.own(name, spot) for spot in spots] for name in self.order.sources
        }
        parts: dict[str, list[Part | None]] = {}
        for name, text in self.order.given.items():
            found = [self._part(name, text, spot, id) for spot, id in zip(spots, ids, strict=True)]
            if name in self.order.request.targets:
                parts[name] = found
                conditions.pop(name, None)
            else:
                conditions[name] = found
        return conditions, parts

    def own(self, name: str, spot: Spot) -> np.ndarray | None:
        """A sample's own tokens; None where it has none."""
        shard = self.lexicon.shard(name, spot[0])
        return shard.row(spot[1], self.order.view % shard.meta.views)

    def _part(self, name: str, text: str, spot: Spot, id: str) -> Part | None:
        tokenizer = self.lexicon.tokenizer(name)
        if isinstance(tokenizer, SequenceTokenizer):
            return sequence_part(tokenizer, text)
        if self.lexicon.spec(name).kind == "values":
            raise ConfigError(f"--given {name.removeprefix('tok_')}: vectors cannot be written by hand; use --from")
        own = self.own(name, spot)
        return None if own is None else Part(own, region(self.lexicon.spec(name), text, id))

    # -- what comes of it

    def labels(self, target: str, results: Sequence[Result], variant: int = 0) -> list[Label | Null]:
        """Labels of one target, checked: a Null where there is none."""
        decoded = self._palettes(target, results, variant) or self.lexicon.decode(
            target, [r.tokens[variant][target] for r in results]
        )
        modality = modality_of(self.lexicon.spec(target).modality)
        return [checked(modality, label, r.reasons[target]) for label, r in zip(decoded, results, strict=True)]

    def _palettes(self, target: str, results: Sequence[Result], variant: int) -> list[Label | Null | None]:
        """Palettes of every size; empty where the target is something else, or a part of its one palette was given."""
        if self.lexicon.spec(target).content != "color_palette" or target in self.order.given:
            return []
        request = self.order.request
        before = request.targets[: request.targets.index(target)] if request.chain else ()
        made = [i for i, r in enumerate(results) if r.tokens[variant][target] is not None]
        names = [n for n in (results[0].shown if results else {}) if n not in request.targets]
        given = {n: [results[i].shown[n] for i in made] for n in names}
        given |= {n: [results[i].tokens[variant][n] for i in made] for n in before}
        keys = [f"{results[i].id}:{self.order.view}:{variant}" for i in made]
        largest = [ids for r in results if (ids := r.tokens[variant][target]) is not None]
        labels = whole_palettes(self.predictor, target, given, request.how[target], keys, largest)
        found: list[Label | Null | None] = [None] * len(results)
        for i, label in zip(made, labels, strict=True):
            found[i] = label
        return found

    def recipes(self, spots: Sequence[Spot]) -> dict[str, dict[str, Any]]:
        """The recipe of each target: all that decides its labels, the samples that were asked for among it."""
        order, record = self.order, self.predictor.record
        everything = len(spots) == sum(len(self.ds.ids(k)) for k in self.ds.shards())
        found: dict[str, dict[str, Any]] = {}
        for at, target in enumerate(order.request.targets):
            before = order.request.targets[: at + 1] if order.request.chain else (target,)
            reads = {n: self.lexicon.recipes[n] for n in (*order.sources, *order.given) if n in self.lexicon.recipes}
            params = {
                "from": list(order.sources), "given": dict(order.given), "chain": list(before), "view": order.view,
                "frame": f"view {order.view}", "decoding": {n: asdict(order.request.how[n]) for n in before},
                "dense": order.request.dense, "token": target,
                "samples": "all" if everything else [list(spot) for spot in spots],
            }  # fmt: skip
            backend = f"any-to-any model {order.model!r}, {record['config']['size']}, step {record['step']}"
            name = modality_of(self.lexicon.spec(target).modality).name
            found[target] = recipe_for(
                name, backend, record["sha256"][MODEL], self.lexicon.digest(target), params, reads or self._spine()
            )
        return found

    def _spine(self) -> dict[str, str]:
        """What a recipe reads that is made from nothing of the sample: the pictures give the ids their meaning."""
        return {"rgb": self.ds.current("rgb")}

    def write(
        self, spots: Sequence[Spot], results: Sequence[Result], progress: Progress = lambda *_: None
    ) -> list[Commit]:
        """Commit a shard of every target for each index shard that has a sample among them; none becomes current."""
        commits = []
        place = {result.spot: i for i, result in enumerate(results)}
        recipes = self.recipes(spots)
        shards = sorted({k for k, _ in spots})
        for target, recipe in recipes.items():
            modality, rid = modality_of(self.lexicon.spec(target).modality), self.ds.put_recipe(recipe)
            labels = self.labels(target, results)
            for done, k in enumerate(shards):
                progress(f"write {modality.name}@{rid}", done, len(shards), "")
                rows = [
                    labels[place[k, row]] if (k, row) in place else Null("not asked for")
                    for row in range(len(self.ds.ids(k)))
                ]
                commits.append(write_shard(self.ds, modality, rid, k, rows))
            progress(f"write {modality.name}@{rid}", len(shards), len(shards), "")
        return commits


def settings_of(
    targets: Sequence[str], common: Decoding, special: Mapping[str, Mapping[str, Any]], sequences: Collection[str]
) -> dict[str, Decoding]:
    """Settings of each target: the common ones, with what was set for it alone. ConfigError for an unknown setting.

    sequences: those of the targets that are decoded token by token. A common order is for those targets that can have it.
    """
    can = {target for target in targets if (target in sequences) == (common.order == "ar")}
    known = {f.name for f in dataclasses.fields(Decoding)}
    found = {}
    for target in targets:
        own = special.get(target, {})
        wrong = [name for name in own if name not in known]
        if wrong:
            raise ConfigError(f"{target}: unknown setting {wrong[0]!r}. Known: {', '.join(sorted(known))}.")
        usual = {"order": "auto"} if can and target not in can else {}
        found[target] = dataclasses.replace(common, **{**usual, **own})
    return found
