"""A model of the Hugging Face hub by its name: ``policy.path=owner/name`` means the files that the hub has for it.

They are fetched once into huggingface_hub's cache (``HF_HOME``); later starts need no network.
"""

from __future__ import annotations

import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# Weights as safetensors, configuration, tokenizer, chat template; no pickles, no code.
FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def is_hub_id(setting: str) -> bool:
    """Whether ``setting`` has the form owner/name."""
    return HUB_ID.fullmatch(setting) is not None


def from_hub(field: str, hub_id: str) -> Path:
    """The directory with the files of the model ``hub_id``, fetched now if they are not there.

    Raises ValueError: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(FILES)))
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
