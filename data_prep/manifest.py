"""How the manifest of a corpus is written and what its fingerprint is, in pieces: 100,000 shards make 60 MB."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

# As deep as tables are found that grow with the corpus: files, splits' shards, audited sources.
_DEPTH = 2
_PIECES = 4096


def manifest_fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 (hex) over everything in the manifest but itself, so over the checksums of all files too."""
    digest = hashlib.sha256()
    content = {key: value for key, value in manifest.items() if key != "fingerprint"}
    for piece in _compact(content, _DEPTH):
        digest.update(piece.encode())
    return digest.hexdigest()


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The one way in which a manifest is written: any other bytes are damage."""
    return "".join(manifest_lines(manifest)).encode()


def manifest_lines(manifest: dict[str, Any]) -> Iterator[str]:
    """The same in pieces of some 4096 tokens of JSON, all ASCII."""
    waiting: list[str] = []
    for piece in json.JSONEncoder(sort_keys=True, indent=1).iterencode(manifest):
        waiting.append(piece)
        if len(waiting) == _PIECES:
            yield "".join(waiting)
            waiting = []
    yield "".join([*waiting, "\n"])


def _compact(value: dict[str, Any], depth: int) -> Iterator[str]:
    """What json.dumps gives with sorted keys and no space."""
    if not depth or not value:
        yield json.dumps(value, sort_keys=True, separators=(",", ":"))
        return
    opening = "{"
    for key in sorted(value):
        yield f"{opening}{json.dumps(key)}:"
        if isinstance(value[key], dict):
            yield from _compact(value[key], depth - 1)
        else:
            yield json.dumps(value[key], sort_keys=True, separators=(",", ":"))
        opening = ","
    yield "}"
