"""The commit protocol: write aside, re-open, count, digest, publish, and only then commit, put-if-absent.

Readers trust commits alone, so a crash at any step leaves nothing half visible:

before publish      only a temporary file, swept by gc
publish..commit     a whole file without a commit: the next attempt adopts it if it checks out and was made from the
                    same inputs, and replaces it otherwise
after commit        done; a second attempt sees the commit and does no work

Two attempts at once: publishing and committing both refuse an existing name, so one wins each, and the other accepts
the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DamageError
from pipeline.records import Commit, file_sha256, folder_of, require_of, shard_name
from pipeline.storage import Storage


@dataclass(frozen=True)
class Verified:
    """What re-opening a finished shard file found: ids in order, reason of each null, fingerprints of its inputs."""

    ids: Sequence[str]
    nulls: Mapping[str, str]
    inputs: Mapping[str, str]


Verify = Callable[[Path], Verified]  # opens the file as a reader would; raises for anything malformed
Step = Callable[[str], None]  # called at each named step; the fault tests exit in it


def commit_key(modality: str, recipe: str, k: int) -> str:
    return f"{folder_of(modality, recipe)}/_commits/{shard_name(k, 'json')}"


def data_key(commit: Commit) -> str:
    return f"{folder_of(commit.modality, commit.recipe)}/{commit.file}"


def read_commit(storage: Storage, modality: str, recipe: str, k: int) -> Commit | None:
    """The commit of a shard, or None. DamageError where the record is unreadable, or that of another shard."""
    key = commit_key(modality, recipe, k)
    try:
        commit = Commit.from_json(storage.read_bytes(key))
        require_of(commit, modality, recipe, k)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamageError(
            f"{storage.url}/{key} is not a commit record ({error}). Run `manymodal repair`, then this command again."
        ) from error
    return commit


def _check(path: Path, verify: Verify, expected: Sequence[str], draft: Commit) -> Commit:
    """Re-open the file and complete the commit with what is really in it. DamageError unless its ids are the expected
    ones.
    """
    found = verify(path)
    if list(found.ids) != list(expected):
        raise DamageError(
            f"{path.name}: {len(found.ids)} rows re-read where the index has {len(expected)}, or in another order; not committed"
        )
    return dataclasses.replace(
        draft, count=len(found.ids), bytes=path.stat().st_size, sha256=file_sha256(path),
        nulls=dict(found.nulls), inputs=dict(found.inputs),
    )  # fmt: skip


def commit_shard(
    storage: Storage, draft: Commit, path: Path, ids: Sequence[str], verify: Verify, step: Step = lambda name: None
) -> Commit:
    """Publish `path` as the shard `draft` names, and commit it; returns the commit that is in force afterwards.

    ids: what the index says the shard holds. Count, length, digest, nulls and inputs are read back from the file, not
    taken from the draft. Raises DamageError when the file is not what it should be; nothing is visible then.
    """
    step("written")
    mine = _check(path, verify, ids, draft)
    step("verified")
    key = data_key(mine)
    for _ in range(3):
        if storage.publish(path, key):
            break
        present = read_commit(storage, mine.modality, mine.recipe, mine.shard)
        if present is not None:
            return present
        adopted = _adopt(storage, key, verify, ids, mine)
        if adopted is not None:
            mine = adopted
            break
        storage.delete(key)  # an orphan of other inputs, or damaged: no commit has ever pointed to it
    else:
        raise DamageError(
            f"{storage.url}/{key} is published again and again by others without a commit; stop the other run"
        )
    step("published")
    won = storage.put_if_absent(commit_key(mine.modality, mine.recipe, mine.shard), mine.to_json())
    step("committed")
    if won:
        return mine
    present = read_commit(storage, mine.modality, mine.recipe, mine.shard)
    assert present is not None, "a commit exists, or put_if_absent would have written it"
    return present


def _adopt(storage: Storage, key: str, verify: Verify, ids: Sequence[str], mine: Commit) -> Commit | None:
    """The commit for a file already published without one, if it is whole and made from the same inputs; else None."""
    try:
        theirs = _check(storage.local(key), verify, ids, mine)
    except FileNotFoundError:
        return None
    except Exception:  # whatever a damaged file raises when opened: it is not adopted
        return None
    return theirs if dict(theirs.inputs) == dict(mine.inputs) else None


def retract(storage: Storage, commit: Commit) -> None:
    """Make a committed shard not exist: the commit goes first, so that no reader ever sees a commit without its data."""
    storage.delete(commit_key(commit.modality, commit.recipe, commit.shard))
    storage.delete(data_key(commit))
