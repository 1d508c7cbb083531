"""Is everything as committed, and does every label belong to its image? Reads everything; changes nothing.

For each recipe on storage, the old ones too: commits and files by listing, then each file's digest, ids, count, nulls
and inputs by reading it. What digests cannot show, labels that were shifted before they were committed, is found by
content (see `content.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.care.finding import Finding
from pipeline.care.removed import removed
from pipeline.commits import Verified
from pipeline.dataset import Dataset
from pipeline.errors import DamageError
from pipeline.plan import Ref
from pipeline.records import SOURCE, Commit, file_sha256, folder_of
from pipeline.status import stored
from pipeline.survey import Survey, shard_of

Reader = Callable[[Path], Verified]  # opens a shard file as its readers would
ReaderOf = Callable[[str], Reader | None]  # by modality; None where nobody here can read it
ContentCheck = Callable[[Dataset, Ref, int], str]  # '' or what is wrong with the content of a shard
Progress = Callable[[str, int, int, str], None]


def refs_on(ds: Dataset) -> list[Ref]:
    """Every (modality, recipe) that has a folder, current or not; rgb first."""
    found: list[Ref] = []
    for key in ds.storage.list(""):
        name, at, recipe = key.rstrip("/").rpartition("@")  # a name may have one too: tok_rgb@448
        if key.endswith("/") and at and not name.startswith("_"):
            found.append((name, recipe))
    rgb = ds.manifest().modalities.get("rgb")
    return ([("rgb", rgb)] if rgb else []) + sorted(found)


def verify(
    ds: Dataset,
    reader_of: ReaderOf,
    content: ContentCheck | None = None,
    refs: Sequence[Ref] | None = None,
    progress: Progress = lambda *_: None,
) -> list[Finding]:
    """Everything that is wrong, in the order of recipes and shards; empty where all is well."""
    current, there = set(ds.manifest().modalities.items()), refs_on(ds)
    gone = sorted(ref for ref in current.difference(there) if stored(ref[0]))
    chosen = [*there, *gone] if refs is None else list(refs)
    surveys = {ref: ds.survey(*ref) for ref in dict.fromkeys([*there, *chosen])}
    findings = _index(ds, surveys)
    lost = {f.shard for f in findings}
    marks = removed(ds)
    for ref in chosen:
        found = surveys[ref]
        of_ref = _listed(ds, ref, found, ref in current)
        digests = {c.sha256: c.shard for _, c in found.records.values()}
        bad = {f.shard for f in of_ref}
        sound = [k for k in sorted(found.commits) if k not in bad and k not in lost]
        for done, k in enumerate(sound):
            progress(f"{ref[0]}@{ref[1]}", done, len(sound), "")
            commit = found.commits[k]
            said = _read(ds, commit, digests, reader_of(ref[0])) or other_inputs(ds, commit, surveys)
            if said is None and content is not None and (what := _content(content, ds, ref, k)):
                said = _of(commit, "content", what)
            if said is None and ref == SOURCE and (left := marks.intersection(ds.ids(k)) - set(commit.nulls)):
                what = f"still holds {min(left)}; run `manymodal forget` with it again"
                said = _of(commit, "removed", what)
            if said is not None:
                of_ref.append(said)
        progress(f"{ref[0]}@{ref[1]}", len(sound), len(sound), "")
        findings += sorted(of_ref, key=lambda f: f.shard)
    return findings


def _index(ds: Dataset, surveys: Mapping[Ref, Survey]) -> list[Finding]:
    findings, shards = [], ds.shards()
    for k in sorted({k for found in surveys.values() for k in found.commits} - set(shards)):
        what = "lost (restore it from a copy), or an ingest ended before it wrote it (run it again)"
        findings.append(Finding("index", "", k, "index", f"is not there, though such a shard is committed: {what}"))
    for k in shards:
        try:
            ids = ds.ids(k)
        except DamageError as error:
            findings.append(Finding("index", "", k, "index", str(error)))
            continue
        if len(set(ids)) != len(ids):
            findings.append(Finding("index", "", k, "index", "an id occurs twice"))
    return findings


def _of(commit: Commit, kind: str, what: str) -> Finding:
    return Finding(commit.modality, commit.recipe, commit.shard, kind, what, commit.sha256)  # type: ignore[arg-type]


def _listed(ds: Dataset, ref: Ref, found: Survey, current: bool) -> list[Finding]:
    """What the listing alone shows: missing and cut files, unreadable and misplaced commits, files without commits."""
    committed = {c.shard: c for _, c in found.records.values()}
    findings = []
    for k, what in found.damage.items():
        kind = "commit" if "not a commit" in what else "missing" if "missing" in what else "length"
        digest = committed[k].sha256 if k in committed else ""
        if kind == "length":
            theirs = _holds(ds, committed[k], {c.sha256: c.shard for c in committed.values()})
            kind, what = ("swapped", f"holds the bytes of shard {theirs}") if theirs is not None else (kind, what)
        findings.append(Finding(*ref, k, kind, what, digest))  # type: ignore[arg-type]
    named = {shard_of(key) for key in found.records} | set(found.damage)
    files = {shard_of(key) for key in ds.storage.list(folder_of(*ref)) if "shard-" in key}
    for k in sorted(files - named):
        findings.append(Finding(*ref, k, "uncommitted", "has a file and no commit"))
    if current and (found.records or files or stored(ref[0])):
        for k in sorted(set(ds.shards()) - named - files):
            findings.append(Finding(*ref, k, "not made", "the current recipe has no such shard"))
    return findings


def _holds(ds: Dataset, commit: Commit, digests: Mapping[str, int]) -> int | None:
    """The shard whose bytes the file has, if it is one of the recipe's."""
    return digests.get(file_sha256(ds.storage.local(f"{folder_of(commit.modality, commit.recipe)}/{commit.file}")))


def _read(ds: Dataset, commit: Commit, digests: Mapping[str, int], reader: Reader | None) -> Finding | None:
    """Digest, then what is inside."""
    try:
        path = ds.storage.local(f"{folder_of(commit.modality, commit.recipe)}/{commit.file}", fresh=True)
    except FileNotFoundError:
        return _of(commit, "missing", "the file went away while it was verified")
    digest = file_sha256(path)
    if digest != commit.sha256:
        other = digests.get(digest)
        if other is not None:
            return _of(commit, "swapped", f"holds the bytes of shard {other}")
        return _of(commit, "digest", f"its bytes have sha256 {digest[:12]}..., committed is {commit.sha256[:12]}...")
    if reader is None:
        return None
    try:
        inside = reader(path)
    except Exception as error:  # whatever a file raises when it is read is what is wrong with it
        return _of(commit, "digest", f"cannot be read: {' '.join(str(error).split())[:200]}")
    if list(inside.ids) != ds.ids(commit.shard):
        return _of(commit, "order", "its ids are not those of the index, in order")
    if commit.count != len(inside.ids):
        return _of(commit, "order", f"its commit counts {commit.count}, it holds {len(inside.ids)}")
    if dict(inside.nulls) != dict(commit.nulls) or not all(inside.nulls.values()):
        return _of(commit, "order", "its nulls are not the committed ones, or lack a reason")
    if dict(inside.inputs) != dict(commit.inputs):
        return _of(commit, "inputs", "it names other inputs than its commit")
    return None


def _content(check: ContentCheck, ds: Dataset, ref: Ref, k: int) -> str:
    """What the check says; nothing where what it would compare with is itself damaged, which is a finding of its own."""
    try:
        return check(ds, ref, k)
    except DamageError:
        return ""


def other_inputs(ds: Dataset, commit: Commit, surveys: Mapping[Ref, Survey]) -> Finding | None:
    """Whether what the shard was made from is still what is committed."""
    if (commit.modality, commit.recipe) == SOURCE:
        return None
    for name, recipe in ds.recipe(commit.recipe)["reads"].items():
        made = surveys[name, recipe].commits.get(commit.shard) if (name, recipe) in surveys else None
        if made is not None and commit.inputs.get(name) != made.sha256:
            return _of(commit, "inputs", f"was made from another {name} than is committed now")
    return None
