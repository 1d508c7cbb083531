"""A data set in Croissant 1.0 (MLCommons): its files, and the columns of the index and of every Parquet modality."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from pipeline.records import folder_of

_TAR, _PARQUET, _ARROW = "application/x-tar", "application/x-parquet", "application/vnd.apache.arrow.file"
_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract",
    "equivalentProperty": "cr:equivalentProperty", "samplingRate": "cr:samplingRate",
    "field": "cr:field", "fileProperty": "cr:fileProperty", "fileObject": "cr:fileObject", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
_INDEX = {"id": "sc:Text", "uri": "sc:Text", "sha256": "sc:Text", "width": "sc:Integer", "height": "sc:Integer",
          "bytes": "sc:Integer"}  # fmt: skip


def croissant(ds: Dataset, found: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON-LD document. found: what `status` says."""
    known = all_modalities()
    sets = [_files("index", "index/*.parquet", _PARQUET, "ids, in the order of every modality")]
    records = [_records("index", "index", {name: (kind, False) for name, kind in _INDEX.items()})]
    for name, m in found["modalities"].items():
        if not m["committed"]:
            continue
        folder, about = folder_of(name, m["recipe"]), f"made by {m['backend']}"
        if name.startswith("tok_"):
            sets.append(_files(name, f"{folder}/*.arrow", _ARROW, f"tokens, {about}"))
        elif name == "rgb" or (name in known and known[name].container == "tar"):
            sets.append(_files(name, f"{folder}/*.tar", _TAR, f"WebDataset, {about}"))
        else:
            sets.append(_files(name, f"{folder}/*.parquet", _PARQUET, about))
            if name in known and known[name].kind in ("vector", "text"):
                kind = ("sc:Float", True) if known[name].kind == "vector" else ("sc:Text", False)
                records.append(_records(name, name, {"id": ("sc:Text", False), "value": kind}))
    created = time.strftime("%Y-%m-%d", time.gmtime(ds.storage.modified("dataset.json")))
    return {
        "@context": _CONTEXT, "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": ds.name, "description": f"{found['samples']} images in {found['shards']} shards, aligned in every modality.",
        "license": "other", "url": ".", "version": f"{found['manifest']}.0.0", "datePublished": created,
        "distribution": sets, "recordSet": records,
    }  # fmt: skip


def _files(name: str, pattern: str, kind: str, about: str) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": f"{name}-files", "name": f"{name}-files", "description": about,
            "encodingFormat": kind, "includes": pattern}  # fmt: skip


def _records(name: str, files: str, fields: Mapping[str, tuple[str, bool]]) -> dict[str, Any]:
    made = []
    for column, (kind, repeated) in fields.items():
        source = {"fileSet": {"@id": f"{files}-files"}, "extract": {"column": column}}
        made.append({"@type": "cr:Field", "@id": f"{name}/{column}", "name": column, "dataType": kind, "source": source,
                     **({"repeated": True} if repeated else {})})  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": made}
