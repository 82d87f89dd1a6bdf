"""The cardio table: from kagglehub's cache, from the folder, or by hand. Nothing here reaches a
network."""

import sys
from pathlib import Path

import pytest

from cardiotune.config import shipped
from cardiotune.data import download
from cardiotune.errors import CardioTuneError, ConfigError, DataError

SOURCE = download.SOURCES["cardio"]


def refused(name: str, folder: Path) -> CardioTuneError:
    with pytest.raises(CardioTuneError) as caught:
        download.get(name, folder)
    assert "\n" not in str(caught.value)
    return caught.value


def put_into_cache(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kagglehub leaves a file that it has downloaded."""
    pytest.importorskip("kagglehub", reason="kagglehub is not installed")
    from kagglehub.cache import Cache
    from kagglehub.handle import parse_dataset_handle

    monkeypatch.setenv("KAGGLEHUB_CACHE", str(folder))
    handle, cache = parse_dataset_handle(SOURCE.handle), Cache()
    file = Path(cache.get_path(handle, SOURCE.file))
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    cache.mark_as_complete(handle, SOURCE.file)


def test_every_source_has_a_dictionary() -> None:
    assert download.SOURCES.keys() <= shipped("datasets").keys()
    assert all("/versions/" in source.handle for source in download.SOURCES.values())


def test_a_downloaded_table_is_copied_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_cache(tmp_path / "cache", b"id;age\n1;2\n", monkeypatch)
    target = download.get("cardio", tmp_path / "new" / "folder")
    assert target == tmp_path / "new" / "folder" / "cardio_train.csv"
    assert target.read_bytes() == b"id;age\n1;2\n"
    assert [file.name for file in target.parent.iterdir()] == ["cardio_train.csv"]


def test_a_table_that_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # any use of it would fail
    (tmp_path / "cardio_train.csv").write_text("mine")
    assert download.get("cardio", tmp_path).read_text() == "mine"


def test_another_file_is_said_to_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.log.parent, "propagate", True)
    download.get("cardio", shared_data)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    (tmp_path / "cardio_train.csv").write_text("mine")
    download.get("cardio", tmp_path)
    assert "differs" in caplog.text


def test_without_kagglehub_the_way_by_hand_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    error = refused("cardio", tmp_path)
    assert isinstance(error, DataError)
    for told in ("pip install kagglehub", SOURCE.page, f"put it at {tmp_path / 'cardio_train.csv'}"):
        assert told in str(error)


def test_without_a_network_the_way_by_hand_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kagglehub", reason="kagglehub is not installed")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "empty"))
    for name in ("HTTPS_PROXY", "https_proxy"):  # a port where nothing listens
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    error = refused("cardio", tmp_path)
    assert isinstance(error, DataError)
    assert "cannot be downloaded here (ProxyError)" in str(error)
    assert SOURCE.page in str(error) and str(tmp_path / "cardio_train.csv") in str(error)
    assert not (tmp_path / "cardio_train.csv").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_cache(tmp_path / "cache", b"x", monkeypatch)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in str(refused("cardio", tmp_path / "file" / "folder"))


def test_an_unknown_name(tmp_path: Path) -> None:
    error = refused("cardo", tmp_path)
    assert isinstance(error, ConfigError)
    assert str(error) == "cardo: no source is known; did you mean cardio?"
