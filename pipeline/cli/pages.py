"""Commands a person looks at: the gallery page, the demo, and the doctor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Assign, Run, Target, settings


def gallery(
    target: Target,
    out: Annotated[
        str | None, typer.Option("--out", help="Where to write the page; default: gallery.html in the data set.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", help="Photos to show, held-out ones first.")] = 40,
    assign: Assign = None,
) -> None:
    """Write one static HTML page: each photo's labels, its tokens decoded, and what the model predicts from RGB."""
    print(run_gallery(settings(target, assign), out, rows))


def run_gallery(config: Any, out: str | None = None, rows: int = 40, quiet: bool = False) -> str:
    """Write the page with progress; its path or URL."""
    from pipeline.cli.console import bars
    from pipeline.dataset import Dataset
    from pipeline.gallery.page import render_page
    from trainer.showcase import collect

    ds = Dataset.open(config.root)
    with bars("Gallery", "columns", quiet) as progress:
        page = collect(ds, config, rows, progress)
        return keep_page(ds, "gallery.html", out, lambda path: render_page(page, path))


def keep_page(ds: Any, name: str, out: str | None, render: Callable[[Path], object]) -> str:
    """Render a page to `out`, a path or s3://, or into the data set under `name`; where it lies."""
    from pipeline.storage.places import parent

    if out and "://" not in out:
        render(Path(out))
        return str(Path(out).absolute())
    storage, name = parent(out) if out else (ds.storage, name)
    with storage.scratch() as folder:
        render(folder / name)
        storage.put(name, (folder / name).read_bytes())
    return f"{storage.url}/{name}"


def demo(
    out: Annotated[str, typer.Option("--out", help="Where the demo's data set and page go.")] = "demo-out",
    images: Annotated[
        str | None,
        typer.Option("--images", help="Your own folder of photos, or s3://bucket/prefix, instead of the demo's."),
    ] = None,
    executor: Run = None,
    assign: Assign = None,
) -> None:
    """Photos to labels, tokens, a trained model and a page, in one command. Run it again to resume."""
    from pipeline.cli.console import err
    from pipeline.cli.data import finish, run_ingest, run_label
    from pipeline.cli.learn import run_fit, run_tokenize, run_train
    from pipeline.config import CONFIG_NAME
    from pipeline.demo.settings import count_photos, demo_config_text
    from pipeline.errors import ConfigError
    from pipeline.storage import open_storage

    storage = open_storage(out)
    if images is not None and "://" not in images and not Path(images).is_dir():
        raise ConfigError(f"--images {images}: no such folder")
    there = storage.list("")
    if there and not there.keys() & {"dataset.json", CONFIG_NAME}:
        raise ConfigError(f"--out {out}: is a folder with other things in it. Choose a new or empty one.")
    source = images or str(_demo_photos())
    storage.put_if_absent(CONFIG_NAME, demo_config_text(count_photos(source)).encode())
    config = settings(out, assign, executor)
    run_ingest(config, [source])
    finish(run_label(config, []), as_json=False)
    run_fit(config, [])
    finish(run_tokenize(config, []), as_json=False)
    run_train(config)
    page = run_gallery(config)
    err.print("[bold]Done.[/bold] Open the page in a browser:", style="green")
    print(page)


def _demo_photos() -> Path:
    """The folder of the demo's photos in the cache, fetched once."""
    from labelers.core.weights import default_cache
    from pipeline.cli.console import err
    from pipeline.demo.photos import fetch_demo_photos

    cache = default_cache()
    folder = cache / "demo-photos"
    count = fetch_demo_photos(folder, cache)
    err.print(f"{count} photos under free licences in {folder}", markup=False)
    return folder


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: libraries, Ray, cores, memory, disk, GPU, weights at hand; and list every backend's licences."""
    from pipeline.cli.console import print_json, table
    from pipeline.doctor import examine
    from pipeline.errors import Incomplete

    found = examine()
    if as_json:
        print_json(found)
    else:
        table(
            "This machine",
            ("check", "found", "fine"),
            [(c["check"], c["found"], "yes" if c["fine"] else "NO: " + c["do"]) for c in found["checks"]],
        )
        rows = [
            (b["labeler"], b["backend"], b["code"], b["weights"], "yes" if b["commercial"] else "NO", b["at_hand"])
            for b in found["backends"]
        ]
        table(
            "Backends", ("labeler", "backend", "code licence", "weights licence", "commercial", "weights at hand"), rows
        )
    if not all(c["fine"] for c in found["checks"]):
        raise Incomplete("doctor: something above is not fine")
