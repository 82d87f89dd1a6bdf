"""An export to a model hub, only when it is asked for by name. What goes up are the files that the
export made, never data."""

from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from cardiotune.deployment.record import is_export
from cardiotune.errors import ConfigError, RunError
from cardiotune.files import HASHES, read_json
from cardiotune.training.checkpoint import verify


def to_upload(folder: Path) -> list[str]:
    """Names of the files that would go up: those that the export has recorded, and the record.
    ModelError when one is changed."""
    if not is_export(folder):
        raise ConfigError(f"{folder}: not an export; make one with `cardiotune export RUN --to FORMAT --out DIR`")
    verify(folder)
    return sorted([*read_json(folder / HASHES), HASHES])


def upload(folder: Path, repository: str, public: bool = False) -> str:
    """Put an export into a repository of the hub, private unless asked otherwise; returns its
    address.

    The hub's own settings apply: `HF_TOKEN`, `HF_ENDPOINT`. Raises ConfigError when the repository
    is there and public, and that was not asked for; RunError when the hub refuses or cannot be
    reached.
    """
    files = to_upload(folder)
    api = HfApi()
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.model_info(repository).private:
            raise ConfigError(f"{repository}: is there already and public; say --public, or name another repository")
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=files, commit_message="Export of CardioTune"
        )
    except HFValidationError:
        raise ConfigError(f"--repository {repository}: expected OWNER/NAME") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise RunError(
            f"{repository}: not uploaded ({type(error).__name__}); check the network, and HF_TOKEN for a token that may write"
        ) from None
    return str(made)


def check_asked(repository: str | None, asked: bool, folder: Path) -> str:
    """The repository, when both it and the upload were asked for; else ConfigError that says what
    would go up."""
    if repository and asked:
        return repository
    names = to_upload(folder)
    raise ConfigError(
        f"--to hub uploads {len(names)} files of {folder} ({', '.join(names)}); to do so add --repository OWNER/NAME --upload"
    )
