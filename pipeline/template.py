"""The commented configuration `manymodal init` writes: every labeler with its parameters, weights and licences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from labelers.core.labeler import Labeler
from labelers.core.registry import all_labelers
from labelers.core.weights import parse
from pipeline.licences import terms
from pipeline.profiles import PROFILES, Profile

_MOVES = "a branch: the data set keeps the commit it finds first, as `manymodal why` shows; name one to choose it"

_HEAD = """\
# manymodal: configuration of one data set. Every value below is the default; delete what you do not change.
# An unknown key is an error. Any value can be overridden for one command: --set tokens.views=8

root: .                 # where the data set lives; a relative path counts from this file
name: photos
shard_size: 32          # samples a shard; fixed for ever when the data set is created
sources: []             # folders (recursive), WebDataset tars, or lists of paths (.parquet .csv .txt)
executor: ray           # ray: actors on this machine or on RAY_ADDRESS; local: in one process
share_decode: true      # labelers that fit into one worker look at the same decoded images

tokens:
  profile: offline      # offline: small grids and codebooks, for minutes on a CPU; published: those of 4M-21
  views: 4              # crops a sample; view 0 is the centre, the others derive from hash(id, seed, view)
  seed: 0
  holdout: 0.15         # share of every shard left out of fitting and training, for honest pages
  fit_seconds: 12       # time to fit each network tokenizer; fit_steps: N instead makes it reproducible
  modalities: null      # null: every token modality whose source is labelled; or names and patterns (tok_*@448)
  settings: {}          # rows of the token table changed, e.g. {tok_rgb: {size: 64, vocab: 512}}
  text: {}              # of the text vocabulary: {corpus: [FILES], vocab_size: 30000} or {file: tokenizer.json}

limits:                 # seconds after which a run gives up on
  batch_seconds: 600    # a labeler's call; its samples are then tried in halves
  shard_seconds: 3600   # a worker's shard; the worker is then replaced
  stall_seconds: 7200   # itself, when no shard ends
  start_seconds: 900    # a worker that does not come up
  silence_seconds: 60   # a node or worker that gives no sign of life
  node_seconds: 0       # waiting for a node that can hold a worker, where none can now (a cluster that grows)

train: {}               # settings of the trainer, e.g. {size: micro, steps: 400, batch: 16}; all: trainer/config.py

labelers:
"""


def config_template(profile: str = "offline") -> str:
    """YAML text of a profile; that of "offline" loads to the default configuration. KeyError for an unknown profile."""
    chosen = PROFILES[profile]
    head = _HEAD if profile == "offline" else _changed(_HEAD, profile, chosen)
    return head + "".join(_labeler_lines(cls, chosen) for cls in all_labelers().values())


def _changed(head: str, name: str, profile: Profile) -> str:
    """The head with the profile's settings in the place of the defaults."""
    lines = head.replace(
        "Every value below is the default; delete what you do not change.", f"Profile {name}: {profile.about}."
    )
    for key, value in profile.settings.items():
        lines, count = re.subn(rf"(?m)^{re.escape(key)} *\S.*?(?=  +#|$)", f"{key} {value}", lines)
        if count != 1:
            raise AssertionError(f"the template has {count} lines {key!r}, which profile {name} changes")
    return lines


def _labeler_lines(cls: type[Labeler], profile: Profile) -> str:
    """One labeler's section; its comment says what makes it, and under which licences."""
    makes = ", ".join(m.name + ("" if m.stored else " (not stored unless store: true)") for m in cls.produces)
    lines = [
        f"  {cls.name}:  # {cls.backend}; makes {makes}; {terms(cls)}",
        f"    enabled: {str(profile.enabled(cls)).lower()}",
    ]
    params = profile.params_of(cls)
    if params:
        lines.append("    params:")
        lines += [f"      {key}: {json.dumps(value)}" for key, value in params.items()]
    if cls.weights:
        lines.append("    weights:" + ("" if _pinned(profile.weights_of(cls)) else f"  # {_MOVES}"))
        lines += [f"      {slot}: {json.dumps(url)}" for slot, url in profile.weights_of(cls).items()]
    if cls.sources:
        lines.append("    # weights, which must be named: " + ", ".join(f"{slot}: file:PATH" for slot in cls.sources))
    return "\n".join(lines) + "\n"


def _pinned(weights: Mapping[str, str]) -> bool:
    return not any(parse(url).moves for url in weights.values())
