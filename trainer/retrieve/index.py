"""A vector index in a folder of its own, `_indexes/<name>`: nearest by cosine, with faiss.

vectors.faiss   unit vectors, inner product: exact up to EXACT of them, a graph (HNSW) beyond
rows.parquet    id, shard, row of each
index.json      what was indexed, and sha256 of both files
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.records import canonical_json, file_sha256
from pipeline.shards import read_parquet, write_parquet
from trainer.generate.job import Spot
from trainer.retrieve.vectors import Floats, Vectors

VECTORS, ROWS, RECORD = "vectors.faiss", "rows.parquet", "index.json"
EXACT = 200_000
LINKS, EFFORT = 32, 128  # of the graph: neighbours of a node, candidates of a search


@dataclass(frozen=True)
class Found:
    """Nearest samples of some queries: numbers of the index's rows, and cosines; both (q, k), -1 where there are fewer."""

    rows: npt.NDArray[np.int64]
    cosine: Floats


class VectorIndex:
    """An index and what it is of. record: modality, source, recipe or checkpoint, counts."""

    def __init__(self, index: Any, ids: list[str], spots: list[Spot], record: dict[str, Any]) -> None:
        self.index, self.ids, self.spots, self.record = index, ids, spots, record

    @staticmethod
    def build(ds: Dataset, vectors: Vectors, record: dict[str, Any]) -> VectorIndex:
        import faiss

        dim = vectors.rows.shape[1]
        index: Any = faiss.IndexFlatIP(dim)
        if len(vectors.rows) > EXACT:
            index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efSearch = EFFORT
        index.add(vectors.rows)
        ids = [ds.ids(k)[row] for k, row in vectors.spots]
        whole = {**record, "dim": dim, "count": len(ids), "missing": vectors.missing}
        return VectorIndex(index, ids, list(vectors.spots), whole)

    def search(self, queries: Floats, k: int) -> Found:
        """The k nearest of each query (q, d), nearest first. ConfigError for vectors of another length."""
        if queries.shape[1] != self.record["dim"]:
            raise ConfigError(
                f"queries have {queries.shape[1]} numbers, the index {self.record['dim']}; index the same modality"
            )
        cosine, rows = self.index.search(np.ascontiguousarray(queries, np.float32), min(k, len(self.ids)))
        return Found(np.asarray(rows, np.int64), np.asarray(cosine, np.float32))

    def save(self, ds: Dataset, name: str) -> None:
        """Write it aside, then put the folder in place."""
        import faiss

        with tempfile.TemporaryDirectory(prefix="manymodal-index-") as scratch:
            folder = Path(scratch)
            faiss.write_index(self.index, str(folder / VECTORS))
            columns = {
                "id": pa.array(self.ids, pa.string()), "shard": pa.array([k for k, _ in self.spots], pa.int32()),
                "row": pa.array([row for _, row in self.spots], pa.int32()),
            }  # fmt: skip
            write_parquet(folder / ROWS, pa.table(columns))
            digests = {n: file_sha256(folder / n) for n in (VECTORS, ROWS)}
            (folder / RECORD).write_bytes(canonical_json({**self.record, "sha256": digests}))
            ds.storage.put_folder(f"_indexes/{name}", folder)

    @staticmethod
    def load(ds: Dataset, name: str) -> VectorIndex:
        """ConfigError where there is none of that name, DamageError where it is not as it was written."""
        import faiss

        folder = ds.storage.fetch_folder(f"_indexes/{name}")
        try:
            record = json.loads((folder / RECORD).read_bytes())
        except FileNotFoundError:
            raise ConfigError(f"{name}: the data set has no such index. Run `manymodal index` first.") from None
        except ValueError as error:
            raise DamageError(f"{folder / RECORD}: is not JSON ({error}). Run `manymodal index` again.") from error
        for file, digest in record.pop("sha256").items():
            if not (folder / file).is_file() or file_sha256(folder / file) != digest:
                raise DamageError(f"{folder / file}: is not the file that was written. Run `manymodal index` again.")
        table = read_parquet(folder / ROWS).to_pydict()
        spots = list(zip(table["shard"], table["row"], strict=True))
        return VectorIndex(faiss.read_index(str(folder / VECTORS)), table["id"], spots, record)
