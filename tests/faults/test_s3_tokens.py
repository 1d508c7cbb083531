"""F8 to F10 for `tokenize`: a data set copied into a bucket by another tool, tokenized while a fifth of all requests goes
wrong, has the tokens of a local run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from tests.faults.proxy import proxy
from tests.faults.test_s3 import EACH
from tests.seaweed import Server
from tests.threads import one_thread
from tests.tokenize_shards.small import build, fit_small, small_config, small_table
from tokenize_shards.tokenize import tokenize

NAMES = ("tok_color_palette", "tok_rgb")


@pytest.fixture
def fitted(tmp_path: Path) -> Iterator[Path]:
    """A small labelled data set with fitted tokenizers, in a folder."""
    with one_thread(), small_table():
        root = build(tmp_path)
        fit_small(root)
        yield root


def digests(root: str) -> dict[tuple[str, int], str]:
    ds = Dataset.open(root)
    return {(name, k): c.sha256 for name in NAMES for k, c in ds.commits(name, ds.current(name)).items()}


def test_tokens_are_the_same_whatever_befalls_the_requests(
    s3: str, s3_server: Server, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bucket = s3_server.client(), s3.removeprefix("s3://")
    files = [path for path in fitted.rglob("*") if path.is_file()]
    for fault in EACH:
        for path in files:  # without the metadata this project writes
            client.put_object(Bucket=bucket, Key=f"{fault}/{path.relative_to(fitted)}", Body=path.read_bytes())
    assert not tokenize(Dataset.open(str(fitted)), small_config(fitted), NAMES).failed
    wanted = digests(str(fitted))
    assert len(wanted) == 6
    with proxy((s3_server.host, s3_server.port)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        for fault, rate in EACH.items():
            between.becomes({fault: rate})
            report = tokenize(Dataset.open(f"{s3}/{fault}"), small_config(f"{s3}/{fault}"), NAMES)
            assert not report.failed, (fault, report.errors)
            assert between.done[fault] >= 5, (fault, between.done)
            between.becomes({})
            assert digests(f"{s3}/{fault}") == wanted, fault
