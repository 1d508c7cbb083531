"""Weights of a data set: resolved once by the driver, kept by digest where every worker finds them, pinned for ever.

    _weights/<sha256>           a file
    _weights/<sha256>.folder    a folder: lines `<sha256>  <path>`, whose own sha256 is the folder's digest; its files lie
                                beside it by theirs
    _weights/pins/<key>.json    which commit and digest a hub's URL meant when this data set first asked

A URL of a hub without a digest is pinned: the first answer is kept, put-if-absent, and used by every later run, also
where no hub can be reached any more. To take newer weights, name their commit in the configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from labelers.core.weights import Weight, WeightError, default_cache, digest, listing, parse, pin, resolve_all
from pipeline.errors import ConfigError, DamageError
from pipeline.records import canonical_json
from pipeline.storage import Storage
from pipeline.storage.places import here

Trusted = Callable[[str, str], Path]  # (key, sha256) -> local path of a key whose bytes were checked


def resolve_weights(storage: Callable[[], Storage], urls: Mapping[str, str]) -> dict[str, Weight]:
    """The weights that URLs name, by slot, hub URLs as this data set pinned them. storage: opened only where one asks.

    Weights that cannot be had any more, but whose digest is known and which the data set keeps, are taken from there.
    ConfigError for what cannot be had.
    """
    try:
        pinned = {slot: _pinned(storage, url) for slot, url in urls.items()}
        try:
            return resolve_all(pinned, here=here)
        except WeightError:
            found = {slot: _kept(storage(), url) for slot, url in pinned.items()}
            if not all(found.values()):
                raise
            return {slot: weight for slot, weight in found.items() if weight is not None}
    except WeightError as error:
        raise ConfigError(str(error)) from error


def _pinned(storage: Callable[[], Storage], text: str) -> str:
    """The URL with commit and digest, from the pin, which is made where there is none."""
    url = parse(text)
    if url.scheme != "hf" or url.sha256:
        return text
    key = f"_weights/pins/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(FileNotFoundError):
        return _read_pin(storage(), key)
    commit = pin(text)
    weight = resolve_all({"": commit})[""]
    record = {"url": text, "resolved": f"{commit}#sha256={weight.sha256}"}
    storage().put_if_absent(key, canonical_json(record))
    return _read_pin(storage(), key)  # another driver may have been first


def _read_pin(storage: Storage, key: str) -> str:
    data = storage.read_bytes(key)
    try:
        return str(json.loads(data)["resolved"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{storage.url}/{key} is no pin ({error}). Delete it; the next run pins anew.") from error


def _kept(storage: Storage, text: str) -> Weight | None:
    """The data set's own copy of weights whose digest the URL says; its bytes are checked when they are used."""
    sha256 = parse(text).sha256
    if not sha256:
        return None

    def local(key: str, _: str) -> Path:
        return storage.local(key)

    try:
        return Weight(weights_path(storage, sha256, local), sha256, text)
    except FileNotFoundError:
        return None


def put_weights(storage: Storage, path: Path, sha256: str) -> None:
    """Keep a copy of a resolved file or folder, by digest. DamageError where its digest is another."""
    if not path.is_dir():
        _put_file(storage, path, sha256)
        return
    if storage.exists(f"_weights/{sha256}.folder"):
        return
    lines = listing(path)
    if hashlib.sha256(lines.encode()).hexdigest() != sha256:
        raise DamageError(f"{path}: its digest is not {sha256}; delete it from the cache and run again")
    for name, file in _entries(lines):
        _put_file(storage, path / name, file)
    storage.put_if_absent(f"_weights/{sha256}.folder", lines.encode())  # last: a folder is there when all of it is


def _put_file(storage: Storage, path: Path, sha256: str) -> None:
    key = f"_weights/{sha256}"
    if storage.exists(key):
        return
    with storage.scratch() as folder:
        copy = folder / sha256
        shutil.copyfile(path, copy)
        if digest(copy) != sha256:
            raise DamageError(f"{path}: its sha256 is not {sha256}; delete it from the cache and run again")
        storage.publish(copy, key)


def kept_keys(storage: Storage, digests: Sequence[str]) -> list[str]:
    """The keys of kept files and folders of these digests. A file that another folder holds as well is not among them."""
    listings = {key: storage.read_bytes(key).decode() for key in storage.list("_weights") if key.endswith(".folder")}
    mine = {f"_weights/{sha256}.folder" for sha256 in digests}
    others = {file for key, lines in listings.items() if key not in mine for _, file in _entries(lines)}
    files = {file for key in mine & set(listings) for _, file in _entries(listings[key])} | set(digests)
    found = {f"_weights/{file}" for file in files - others}
    return sorted((mine & set(listings)) | {key for key in found if storage.exists(key)})  # a listing before its files


def _entries(lines: str) -> list[tuple[str, str]]:
    """(path, sha256) of a folder's listing."""
    return [(line[66:], line[:64]) for line in lines.splitlines()]


def weights_path(storage: Storage, sha256: str, trusted: Trusted) -> Path:
    """Local path of weights kept by `put_weights`: of the file, or of a folder of links. FileNotFoundError if absent."""
    if not storage.exists(f"_weights/{sha256}.folder"):
        return trusted(f"_weights/{sha256}", sha256)
    lines = trusted(f"_weights/{sha256}.folder", sha256).read_text(encoding="utf-8")
    target = default_cache() / "folders" / sha256
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".folder-") as name:
        made = Path(name) / "folder"
        for path, file in _entries(lines):
            link = made / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(trusted(f"_weights/{file}", file).absolute())
        if target.exists() and not _same_links(made, target):
            os.replace(target, Path(name) / "old")  # it points into a data set that is gone
        with contextlib.suppress(OSError):  # another process was first, with the same links
            os.rename(made, target)
    return target


def _same_links(a: Path, b: Path) -> bool:
    names = [path.relative_to(a) for path in a.rglob("*") if path.is_symlink()]
    return all((b / name).is_symlink() and (b / name).exists() for name in names)
