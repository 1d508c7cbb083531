"""A published tokenizer for a token modality of a data set, in place of one that is fitted on it."""

from __future__ import annotations

from typing import Any

from labelers.core.weights import Weight
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.records import canonical_json, file_sha256
from tokenize_shards.fourm.tokenizer import FourM
from tokenize_shards.tokenize import table_of
from tokenize_shards.tokenizer import FitReport


def adopt_tokenizer(ds: Dataset, config: Config, name: str, weights: Weight) -> dict[str, Any]:
    """Keep the checkpoint by digest and let the manifest name it; its record. ConfigError where it does not make what
    the row of the token table says: another grid or vocabulary would be another modality.
    """
    table = table_of(config)
    if name not in table:
        raise ConfigError(f"adopt: no token modality is named {name!r}. Known: {', '.join(table)}.")
    spec = table[name]
    if spec.kind == "sequence":
        raise ConfigError(f"adopt: {name} is text; import its vocabulary with `manymodal fit text` instead")
    tokenizer = FourM.from_folder(weights.path, spec.modality, "vector" if spec.kind == "mlp_pq" else spec.content)
    if (tokenizer.tokens, tokenizer.vocab) != (spec.tokens, spec.vocab):
        raise ConfigError(
            f"adopt: {weights.url} makes {tokenizer.tokens} tokens of {tokenizer.vocab} codes, {name} has {spec.tokens} of "
            f"{spec.vocab}. Set tokens.profile to published, or tokens.settings.{name}.size, patch and vocab."
        )
    with ds.storage.scratch() as folder:
        path = folder / name
        tokenizer.save(path)
        sha256 = file_sha256(path)
        ds.put_weights(path, sha256)
    report = FitReport(tokenizer.kind, 0, 0.0).to_json()
    record = {**report, "sha256": sha256, "vocab": tokenizer.vocab, "tokens": tokenizer.tokens, "url": weights.url}
    ds.storage.put_if_absent(f"_fits/{sha256}.json", canonical_json(record))
    ds.update_manifest(tokenizers={name: sha256})
    return record
