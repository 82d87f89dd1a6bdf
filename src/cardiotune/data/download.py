"""Public tables that cannot be shipped: fetched when asked for, or said where to get them and where
to put them."""

import logging
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cardiotune.errors import ConfigError, DataError
from cardiotune.files import atomic, sha256
from cardiotune.settings import suggest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a table is published."""

    handle: str
    """kagglehub's name of the data set, with its version: a fixed version is never looked up
    twice."""
    file: str
    page: str
    """For a person; its terms stand there too."""
    sha256: str
    """Of the file that the figures in docs/results.md were measured on."""


SOURCES = {
    "cardio": Source(
        handle="sulianova/cardiovascular-disease-dataset/versions/1",
        file="cardio_train.csv",
        page="https://www.kaggle.com/datasets/sulianova/cardiovascular-disease-dataset",
        sha256="21a705d23381b0dfd6a6416da701b490744f1fc3b47e9ff3db3968c420ffa10c",
    ),
}
"""Short name, as in `configs/datasets` -> source."""


def get(name: str, folder: Path) -> Path:
    """The table in `folder`, downloaded unless it is there already. DataError, with the way by
    hand, where that fails."""
    if name not in SOURCES:
        raise ConfigError(f"{name}: no source is known; {suggest(name, SOURCES)}")
    source = SOURCES[name]
    target = folder / source.file
    if target.is_file():
        log.info("%s: is there already", target)
    else:
        _download(source, target)
    if sha256(target) != source.sha256:
        log.warning("%s: differs from the file that docs/results.md was measured on", target)
    return target


def _download(source: Source, target: Path) -> None:
    by_hand = f"; by hand: download {source.file} from {source.page} and put it at {target}"
    try:
        kagglehub: Any = import_module("kagglehub")
    except ImportError:
        raise DataError(f"{source.file}: kagglehub is not installed (pip install kagglehub){by_hand}") from None
    try:
        cached = Path(kagglehub.dataset_download(source.handle, path=source.file))
    # What a network raises is an OSError, in `requests` too.
    except (OSError, kagglehub.exceptions.CredentialError, kagglehub.exceptions.DataCorruptionError) as error:
        raise DataError(f"{source.file}: cannot be downloaded here ({type(error).__name__}){by_hand}") from None
    with atomic(target) as temporary:
        shutil.copyfile(cached, temporary)
