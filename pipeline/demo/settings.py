"""The demo's configuration: the template every data set starts from, with small shards and short fits."""

from __future__ import annotations

from pipeline.template import config_template

CHANGES = {
    "name: photos": "name: demo",
    "shard_size: 32 ": "shard_size: 16 ",
    "views: 4 ": "views: 8 ",
    "fit_seconds: 12 ": "fit_seconds: 14 ",
}


def demo_config_text() -> str:
    """YAML text. AssertionError where the template no longer has what is changed here."""
    text = config_template()
    for old, new in CHANGES.items():
        assert old in text, f"the config template has no line {old!r}"
        text = text.replace(old, new)
    return text
