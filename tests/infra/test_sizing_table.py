"""The sizing table of infra/README.md follows from the rates written above it, by the arithmetic of `manymodal plan`."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.config import Limits
from pipeline.sizing import Cluster, Load, Sizing, size

README = Path(__file__).resolve().parents[2] / "infra" / "README.md"
SHARD = 10_000
CPUS = 16
CLUSTERS = {1_000_000: 4, 100_000_000: 100, 1_000_000_000: 500}  # images -> nodes
READS = {"metadata": ("caption", "human_poses", "maskcut"), "minilm_caption": ("caption",)}  # beside rgb: who made it
TOGETHER = ("caption", "color_palette", "human_poses", "maskcut")  # with canny_edge, and maskcut with dinov2
NODE_PRICE = 0.714
STORE_PRICE, WRITE_PRICE, READ_PRICE = 0.023 / 1e9, 5e-6, 0.4e-6  # a byte and month, a PUT or LIST, a GET


def rates() -> list[tuple[str, float, int, int]]:
    """(step, CPU-seconds an image, modalities written, bytes an image) of the README's first table."""
    rows = re.findall(r"^\| ([a-z0-9_]+) \| ([0-9.]+) \| ([0-9]+) \| ([0-9,]+) \|$", README.read_text(), re.M)
    return [(name, float(s), int(written), int(length.replace(",", ""))) for name, s, written, length in rows]


def tokens() -> int:
    """Bytes an image of all token shards, as the README has them."""
    found = re.search(r"at most ([0-9,]+) bytes of tokens an image", README.read_text())
    assert found
    return int(found[1].replace(",", ""))


def sized(images: int, nodes: int) -> Sizing:
    shards = images // SHARD
    photo = next(length for name, _, _, length in rates() if name == "ingest")
    lengths = {name: length for name, _, _, length in rates()}
    loads = []
    for name, seconds, written, length in rates():
        if name != "ingest":
            also = READS.get(name, ())
            reading = (photo + sum(lengths[other] for other in also)) * images
            together = name in TOGETHER
            loads.append(
                Load(name, shards, seconds * images, 1, 0, 1 + len(also), written, reading, length * images, together)
            )
    return size(loads, Cluster(nodes, CPUS), NODE_PRICE)


def row(images: int, nodes: int) -> str:
    found = sized(images, nodes)
    photo = next(length for name, _, _, length in rates() if name == "ingest")
    stored = photo * images + found.bytes + tokens() * images
    requests = found.gets * READ_PRICE + (found.puts + found.lists) * WRITE_PRICE
    puts = found.puts + found.lists
    cells = [
        f"{images:,}", f"{images // SHARD:,}", f"{found.cpu_hours:,.0f}", f"{nodes}", f"{found.hours:,.1f}", f"{found.cost:,.0f}",
        f"{stored / 1e12:,.2f}", f"{stored * STORE_PRICE:,.0f}", f"{found.gets / 1e6:,.2f}", f"{puts / 1e6:,.3f}",
        f"{requests:,.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def test_the_table_is_what_follows_from_the_rates() -> None:
    assert len(rates()) == 9, "ingest and eight labelers"
    text = README.read_text()
    for images, nodes in CLUSTERS.items():
        assert row(images, nodes) in text, f"infra/README.md should have: {row(images, nodes)}"


def test_the_limits_that_such_shards_need_are_named() -> None:
    limits = {name: float(value) for name, value in re.findall(r"limits\.(\w+)=([0-9]+)", README.read_text())}
    slowest, together = max(s for _, s, _, _ in rates()) * SHARD, sum(s for _, s, _, _ in rates()) * SHARD
    assert f"maskcut {slowest / 3600:.1f} hours, and all labelers together {together / 3600:.1f}" in README.read_text()
    assert slowest > Limits().shard_seconds, "or nothing would have to be said"
    assert limits["shard_seconds"] > 2 * slowest and limits["stall_seconds"] > 2 * together


def test_the_bytes_of_tokens_are_those_of_the_table() -> None:
    from tokenize_shards.table import specs

    names = ("rgb", "canny_edge", "sam_edge", "dinov2", "dinov2_global", "minilm_caption", "caption", "color_palette",
             "metadata", "human_poses", "sam_instance")  # fmt: skip
    longest = sum(specs()[f"tok_{name}"].tokens or specs()[f"tok_{name}"].max_tokens or 0 for name in names)
    assert tokens() == longest * 4 * 2, "four views, two bytes a token"
