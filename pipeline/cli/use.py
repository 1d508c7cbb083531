"""Commands that use a trained model to make something: generate; and what such commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Assign, Target, settings

ModelName = Annotated[str | None, typer.Option("--model", help="Checkpoint, a name in _models; default: train.name.")]
Names = list[str] | None
From = Annotated[Names, typer.Option("--from", help="Modalities to start from, e.g. rgb,caption.")]
To = Annotated[Names, typer.Option("--to", help="Modalities to generate, e.g. depth,normal.")]
Hand = Annotated[
    Names,
    typer.Option(
        "--given",
        help='By hand: caption="a red car", color_palette="#ff0000 #00ff00", metadata="human_count=2", '
        'det="dog 0.1 0.2 0.5 0.9", or a region of the sample\'s own tokens: rgb=left (right, centre, border, 30%).',
    ),
]
Weights = Annotated[Names, typer.Option("--weight", help="Guidance of one condition: caption=3, rgb=-1; repeatable.")]
Special = Annotated[
    Names, typer.Option("--for", help="Settings of one target: rgb:steps=25,temperature=2; repeatable.")
]
Sample = Annotated[Names, typer.Option("--sample", help="This one: an id, or the end of a file name; repeatable.")]
Out = Annotated[str | None, typer.Option("--out", help="Where to write the page.")]


def listed(values: list[str] | None) -> list[str]:
    """'a,b' and repeated options alike, each once."""
    return list(dict.fromkeys(name.strip() for value in values or () for name in value.split(",") if name.strip()))


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """'name=text' options by name. ConfigError where there is no '='."""
    from pipeline.errors import ConfigError

    found = {}
    for value in values or ():
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {value}: expected MODALITY=VALUE")
        found[name.strip()] = text
    return found


def model_of(config: Any, name: str | None) -> tuple[str, Any, Any]:
    """(name, data set, predictor) of the checkpoint a command works with."""
    from pipeline.dataset import Dataset
    from trainer.predict import Predictor
    from trainer.train import model_folder

    ds = Dataset.open(config.root)
    chosen = name or str(config.train.get("name", "model"))
    return chosen, ds, Predictor.load(model_folder(ds, chosen))


def generate(
    target: Target,
    sources: From = None, to: To = None, given: Hand = None,
    order: Annotated[str, typer.Option("--order", help="maskgit, roar, ar, or auto.")] = "auto",
    steps: Annotated[int, typer.Option("--steps", help="Rounds of decoding.")] = 8,
    counts: Annotated[str, typer.Option("--counts", help="Tokens a round keeps: cosine or linear.")] = "cosine",
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token.")] = 0.0,
    cooling: Annotated[str, typer.Option("--cooling", help="constant, linear or inverse.")] = "constant",
    top_k: Annotated[int, typer.Option("--top-k", help="The likeliest k tokens only; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="The fewest tokens that hold this share.")] = 1.0,
    guidance: Annotated[float, typer.Option("--guidance", help="Classifier-free, with all that is given.")] = 1.0,
    weight: Weights = None, special: Special = None,
    chain: Annotated[bool, typer.Option(help="Each finished modality conditions the next.")] = True,
    as_written: Annotated[bool, typer.Option("--as-written", help="Chain in the order of --to.")] = False,
    dense: Annotated[int, typer.Option("--dense", help="Ask for sam_instance at N x N points, merged.")] = 0,
    rows: Annotated[int, typer.Option("--rows", help="Samples, held-out ones first; 0 for all.")] = 12,
    sample: Sample = None,
    view: Annotated[int, typer.Option("--view", help="Whose tokens are read.")] = 0,
    variants: Annotated[int, typer.Option("--variants", help="Results a sample; the first is the label.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise.")] = 0,
    model: ModelName = None, out: Out = None,
    write: Annotated[bool, typer.Option(help="Write label shards: a recipe of their own, never current.")] = True,
    tour: Annotated[bool, typer.Option("--tour", help="One page of what steers the model; needs no --to.")] = False,
    assign: Assign = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Generate modalities from any others, or from parts of themselves, as label shards and a page."""
    common = {
        "order": order, "steps": steps, "counts": counts, "temperature": temperature, "cooling": cooling, "top_k": top_k,
        "top_p": top_p, "guidance": guidance, "weights": pairs(weight, "--weight"), "seed": seed,
    }  # fmt: skip
    config = settings(target, assign)
    if tour:
        print(run_tour(config, rows, sample or [], seed, model, out))
        return
    report = run_generate(
        config, listed(sources), listed(to), pairs(given, "--given"), common, special or [], chain=chain, as_written=as_written,
        dense=dense, rows=rows, samples=sample or [], view=view, variants=variants, model=model,
        out=out, write=write, quiet=as_json,
    )  # fmt: skip
    if as_json:
        from pipeline.cli.console import print_json

        print_json(report)
    else:
        print(report["page"])


def run_generate(
    config: Any, sources: list[str], targets: list[str], given: dict[str, str], common: dict[str, Any], special: list[str],
    *, chain: bool = True, as_written: bool = False, dense: int = 0, rows: int = 12, samples: list[str] | None = None,
    view: int = 0, variants: int = 1, model: str | None = None, out: str | None = None, write: bool = True, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Generate with progress; the JSON-ready report."""
    from pipeline.cli.console import bars, err, table
    from pipeline.cli.pages import keep_page
    from pipeline.gallery.sheet import render_sheet
    from trainer.generate.job import Job
    from trainer.generate.order import held_share, make_order, pick_spots, pictures_of
    from trainer.generate.page import sheet_of

    name, ds, predictor = model_of(config, model)
    order = make_order(ds, sources, targets, given, common, special, chain, as_written, dense, view, variants, name)
    job = Job(ds, predictor, order)
    spots = pick_spots(ds, held_share(config.tokens.holdout, predictor.record), rows, samples or [])
    with bars(f"Generate in {config.root}", "samples", quiet) as progress:
        results = list(job.run(spots, progress))
        commits = job.write(spots, results, progress) if write else []
    sheet = sheet_of(job, results[:40], pictures_of(ds, spots[:40], view, config.tokens.seed))
    page = f"generated-{'-'.join(order.request.targets)}.html"
    where = keep_page(ds, page, out, lambda path: render_sheet(sheet, path))
    made = sorted({(c.modality, c.recipe) for c in commits})
    table(
        f"Generated for {len(spots)} samples",
        ("recipe", "shards", "labels", "nulls"),
        [
            (f"{m}@{r}", len(own), sum(c.count - len(c.nulls) for c in own), sum(len(c.nulls) for c in own))
            for m, r in made
            for own in [[c for c in commits if (c.modality, c.recipe) == (m, r)]]
        ],
    )
    if made:
        err.print("  Not current; `manymodal promote` makes one so.", markup=False)
    return {"samples": len(spots), "recipes": [f"{m}@{r}" for m, r in made], "page": where}


def run_tour(
    config: Any, rows: int = 4, samples: list[str] | None = None, seed: int = 0, model: str | None = None,
    out: str | None = None,
) -> str:  # fmt: skip
    """Write the page of what steers the model; where it is."""
    from pipeline.cli.pages import keep_page
    from pipeline.gallery.sheet import render_sheet
    from trainer.generate.order import held_share, pick_spots
    from trainer.generate.tour import tour

    name, ds, predictor = model_of(config, model)
    spots = pick_spots(ds, held_share(config.tokens.holdout, predictor.record), rows, samples or [])
    sheet = tour(ds, predictor, name, spots, seed, config.tokens.seed)
    return keep_page(ds, "generated-tour.html", out, lambda path: render_sheet(sheet, path))
