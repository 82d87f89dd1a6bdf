"""Row ids: the same in every run on a table, and not to be computed without it."""

import hashlib
import hmac
from pathlib import Path

from cardiotune import files
from cardiotune.data import row_ids


def test_row_ids_need_the_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"id\n1\n" * 400_000)
    key = row_ids.row_key(table)
    assert key == hashlib.sha256(b"cardiotune row id\n" + table.read_bytes()).digest()
    assert key.hex() != files.sha256(table), "what the manifest shows is not the key"
    assert row_ids.hashed_id(key, "1") == hmac.new(key, b"1", "sha256").hexdigest()[:16]
