"""Row ids that tell nothing about the patient's own."""

import hashlib
import hmac
from pathlib import Path

BLOCK = 1 << 20


def row_key(path: Path) -> bytes:
    """Key for row ids: a digest of the whole table under our own prefix.

    It makes ids the same in every run on the same file, and cannot be computed without holding the
    file: a plain hash of a seven-digit id would be undone by trying them all. It is never written
    anywhere; the table's sha256 in the manifest is another digest and does not reveal it.
    """
    digest = hashlib.sha256(b"cardiotune row id\n")
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.digest()


def hashed_id(key: bytes, identity: str) -> str:
    """Sixteen hex digits of HMAC-SHA256."""
    return hmac.digest(key, identity.encode(), "sha256").hex()[:16]
