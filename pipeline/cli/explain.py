"""Commands that explain and compare: why, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Target, settings


def why(
    target: Target,
    sample: Annotated[str, typer.Argument(help="An id, the beginning of one, or the end of a file name.")],
    modality: Annotated[str, typer.Argument(help="MODALITY (its current recipe) or MODALITY@RECIPE.")],
    as_json: AsJson = False,
) -> None:
    """Print the chain behind one label: image, labeler, version, weights, parameters, attempts, tokens."""
    from pipeline.care.promote import parse_ref
    from pipeline.care.why import lines
    from pipeline.care.why import why as run
    from pipeline.cli.console import print_json
    from pipeline.dataset import Dataset

    ds = Dataset.open(settings(target, None).root)
    found = run(ds, sample, parse_ref(ds, modality))
    if as_json:
        print_json(found)
        return
    for line in lines(found):
        print(line)


def diff(
    target: Target,
    a: Annotated[str, typer.Argument(help="MODALITY@RECIPE, or MODALITY for its current recipe.")],
    b: Annotated[str, typer.Argument(help="The same for the other side, the reference where the metric has one.")],
    out: Annotated[str | None, typer.Option("--out", help="Where to write the page of the worst cases.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="Worst cases to show.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Compare two recipes of one modality sample by sample, and show where they differ most."""
    from pipeline.care.diff import diff as run
    from pipeline.care.promote import parse_ref
    from pipeline.cli.console import err, print_json, table
    from pipeline.cli.pages import keep_page
    from pipeline.dataset import Dataset

    config = settings(target, None)
    ds = Dataset.open(config.root)
    refs = parse_ref(ds, a), parse_ref(ds, b)
    column = column_of(ds, *refs)
    found = run(ds, *refs, column, keep=rows)
    names = [f"{m}@{r}" for m, r in refs]
    table(
        f"{names[0]} against {names[1]}: {found.samples} samples compared, {found.equal} equal, "
        f"{found.only_a} only in the first, {found.only_b} only in the second",
        ("metric", "mean", "median", "worst 5 %", "samples"),
        [
            (m, *(f"{v[key]:.4g}" for key in ("mean", "median", "worst_5_percent")), int(v["samples"]))
            for m, v in found.metrics.items()
        ],
    )
    if found.pooled:
        table(
            f"All samples together, {names[1]} being the reference",
            ("score", "value"),
            [(m, f"{v:.4g}") for m, v in found.pooled.items()],
        )
    if found.by_class:
        ranked = sorted(found.by_class.items(), key=lambda pair: -pair[1])
        err.print("  by class: " + ", ".join(f"{name} {value:.3g}" for name, value in ranked), markup=False)
    if found.worst:
        page = f"diff-{names[0]}-{names[1]}.html"
        where = keep_page(ds, page, out, lambda path: _page(ds, found, column, names, path))
        err.print(f"  worst cases: {where}", markup=False)
    if as_json:
        worst = [{"id": i, "shard": k, "place": p, **m} for _, k, p, i, m in found.worst]
        print_json(
            {
                "a": names[0], "b": names[1], "samples": found.samples, "equal": found.equal, "only_a": found.only_a,
                "only_b": found.only_b, "both_null": found.both_null, "metrics": found.metrics, "pooled": found.pooled,
                "by_class": found.by_class, "worst": worst,
            }
        )  # fmt: skip


def column_of(ds: Any, a: tuple[str, str], b: tuple[str, str]) -> Any:
    """How two recipes of a modality, labels or tokens, are read, compared and shown."""
    from pipeline.care.diff import label_column
    from tokenize_shards.decode import is_decoded
    from tokenize_shards.frame import framed_column
    from tokenize_shards.rebuild import token_column

    if a[0].startswith("tok_"):
        return token_column(ds, a[0])
    framed = a[0] == b[0] and (is_decoded(ds, a) or is_decoded(ds, b))
    return framed_column(ds, a, b) if framed else label_column(ds, a[0])


def _page(ds: Any, found: Any, column: Any, names: list[str], path: Path) -> None:
    from labelers.core.compare import METRICS
    from labelers.core.show import Chips, Picture, Words
    from pipeline.care.diff import cells
    from pipeline.gallery.page import KINDS, CellTriple, Gallery, KeyFigure, PhotoRow, render_page

    rows = []
    for (_, k, place, sample, metrics), (x, y, image) in zip(found.worst, cells(ds, found, column), strict=True):
        if image is None:
            continue
        chips = Chips(tuple((m.replace("_", " "), f"{v:.3g} {METRICS[m].unit}".strip()) for m, v in metrics.items()))
        sides = {name: CellTriple(label=cell) for name, cell in zip(names, (x, y), strict=True)}
        uri = ds.index(k)[place].uri.rsplit("/", 1)[-1]
        rows.append(PhotoRow(sample, Picture(image), {**sides, "metrics": CellTriple(label=chips or Words(""))}, uri))
    figures = [KeyFigure(f"{v:.3g}", m.replace("_", " "), "all samples together") for m, v in found.pooled.items()]
    figures += [
        KeyFigure(f"{v['mean']:.3g}", m.replace("_", " "), f"median {v['median']:.3g}")
        for m, v in found.metrics.items()
    ]
    page = Gallery(
        f"{names[0]} against {names[1]}", [*names, "metrics"], rows, figures=figures,
        subtitle=f"{found.samples} samples compared, {found.equal} equal; the worst first",
        coverage=[_maker(ds, ref, found.samples) for ref in (found.a, found.b)],
        photos="Where they differ most", kinds=KINDS[:1],
    )  # fmt: skip
    render_page(page, path)


def _maker(ds: Any, ref: tuple[str, str], samples: int) -> Any:
    """The row of the page that says what made one side."""
    from pipeline.gallery.page import CoverageRow

    recipe = ds.recipe(ref[1])
    weight = next(iter(recipe["weights"].values()), {"sha256": "", "url": ""})
    source = weight["url"].split("#")[0]
    name = f"{ref[0]}@{ref[1]}"
    return CoverageRow(name, recipe["backend"], ref[1], samples, samples, weights=weight["sha256"], source=source)
