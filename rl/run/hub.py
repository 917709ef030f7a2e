"""Models of the Hugging Face hub: ``policy.path=owner/name`` is fetched, ``push_to_hub=owner/name`` is uploaded.

What is fetched goes once into huggingface_hub's cache (``HF_HOME``); later starts need no network. The token for an
upload is huggingface_hub's own (``hf auth login`` or ``HF_TOKEN``): it is never in a setting or in a file of a run.
"""

from __future__ import annotations

import re
from pathlib import Path

from rl.bounds import HUB_ID

# Weights as safetensors, configuration, tokenizer, chat template; no pickles, no code.
FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def is_hub_id(setting: str) -> bool:
    """Whether ``setting`` has the form owner/name."""
    return re.fullmatch(HUB_ID, setting) is not None


def from_hub(field: str, hub_id: str, *, config_only: bool = False) -> Path:
    """The directory with the files of the model ``hub_id``, fetched now if they are not there. ``config_only``: of its
    files config.json alone.

    Raises ValueError: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["config.json"] if config_only else list(FILES)))
    except GatedRepoError as error:
        raise ValueError(
            f"{field}={hub_id}: the hub asks for its licence to be accepted; do so on the model's page, then run: hf "
            "auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{field}={hub_id}: no such directory, and the hub has no model of that name (a private one needs: hf auth "
            "login)"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(
            f"{field}={hub_id}: no such directory, and the hub cannot be reached to fetch a model of that name "
            f"({type(error).__name__}); give a directory with a policy in Hugging Face format"
        ) from error


def check_push(hub_id: str) -> None:
    """Raise ValueError when an upload at the end of a run cannot go well: no token, or the hub is switched off."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"push_to_hub={hub_id}: HF_HUB_OFFLINE is set; unset it, or leave push_to_hub out")
    if not get_token():
        raise ValueError(
            f"push_to_hub={hub_id}: there is no token of the Hugging Face hub; run hf auth login (or set HF_TOKEN), or "
            "leave push_to_hub out"
        )


def push(directory: Path, hub_id: str, *, public: bool) -> str:
    """Upload the policy in ``directory``; returns the address of the commit. The repository is made where there is
    none, private unless ``public``; one that is there keeps its visibility.

    Raises ValueError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(hub_id, repo_type="model", private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=hub_id,
            repo_type="model",
            folder_path=directory,
            allow_patterns=[*FILES, "*.md"],
            ignore_patterns=["*/*"],
            commit_message="The policy of a run",
        )
    except Exception as error:  # the client hands on whatever its HTTP library raises
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"push_to_hub={hub_id}: the upload failed ({type(error).__name__}: {said}); the run is complete, later: "
            f"hf upload {hub_id} {directory} --exclude 'eval/*'"
        ) from error
    return str(commit.commit_url)
