"""A repository of a model hub at a commit: what of it is fetched, and where it lies afterwards.

The hub's own client keeps files by digest below `cache`/hf and resumes broken downloads. It is imported here alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WANTED = re.compile(r"[^/]+\.(json|txt|model|jinja|safetensors)")
OLD = re.compile(r"pytorch_model[^/]*\.bin(\.index\.json)?")


class HubError(RuntimeError):
    """The hub did not give what was asked for; the message says why, in the client's first line."""


def chosen(files: Sequence[str]) -> list[str]:
    """Which files of a repository's top folder are needed: never code; PyTorch's own files only without safetensors."""
    safe = any(name.endswith(".safetensors") and "/" not in name for name in files)
    wanted = [name for name in files if WANTED.fullmatch(name) and not OLD.fullmatch(name)]
    old = [] if safe else [name for name in files if OLD.fullmatch(name)]
    return sorted([*wanted, *old])


def commit_of(name: str, revision: str) -> str:
    """The commit, 40 hex digits, at which a branch or tag stands now."""
    return str(_ask(lambda hub: hub.HfApi().repo_info(name, revision=revision).sha))


def fetch(name: str, commit: str, member: str, cache: Path, local: bool = False) -> Path:
    """The folder of a repository at a commit, or one file of it. local: only what the cache already has; never asks."""
    at = {"revision": commit, "cache_dir": cache / "hf", "local_files_only": local}
    if member:
        return Path(_ask(lambda hub: hub.hf_hub_download(name, member, **at)))
    if local:
        return Path(_ask(lambda hub: hub.snapshot_download(name, **at)))

    def whole(hub: Any) -> str:
        files = chosen(hub.HfApi().list_repo_files(name, revision=commit))
        return str(hub.snapshot_download(name, allow_patterns=files, **at))

    return Path(_ask(whole))


def _ask(question: Any) -> Any:
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise HubError("hf: weights need the package huggingface_hub; install it") from error
    try:
        return question(hub)
    except Exception as error:  # the client raises its own, httpx's and OSError; each means the weights are not here
        words = (str(error).splitlines() or [""])[0]
        raise HubError(f"could not be fetched from the hub ({type(error).__name__}: {words})") from error
