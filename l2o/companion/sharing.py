"""Sharing networks that read networks: folders and repositories of the hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2o.files import printable, write_whole
from l2o.hub_files import fetch, push

from .checkpoint import (
    Companion,
    load_companion,
    read_companion_provenance,
    save_companion,
)
from .models import NetworkClassifier, NetworkEditor, NetworkPredictor
from .probes import Evaluate

COMPANION_FILE = "companion.safetensors"
"""The name of the network's file in a folder or a repository."""

_NOT_STATED = "Not stated."
_PROSE = ("data", "results", "limits")
"""Keys of the provenance that become sections of the card."""
_CARD = """---
library_name: l2o
tags:
- neural-network-weights
- pytorch
---

# {title}

{kind} of {count:,} weights that reads other networks as graphs. It is one file,
`{filename}`; nothing is unpickled when it is loaded.

```python
from l2o import companion

model = companion.from_pretrained({repo_id}{evaluate})
```

## Data

{data}

## Results

{results}

## Limits

{limits}

## Provenance

```json
{provenance}
```
"""


def from_pretrained(
    repo_or_folder: str | Path,
    *,
    evaluate: Evaluate | None = None,
    filename: str = COMPANION_FILE,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Companion:
    """Return a classifier, predictor or editor that somebody shared.

    Only the one safetensors file is fetched, and nothing in it is executed.

    Args:
        repo_or_folder: a folder that `save_pretrained` wrote, or a repository
            `owner/name` of the Hugging Face hub; an existing folder wins.
        evaluate: how to run networks on probes; needed where the network has any.
        filename: the file there.
        revision: branch, tag or commit of the repository; None is its main branch.
        token: for private repositories; None uses the one that `hf auth login` kept.
        cache_dir: where downloads are kept; None is the hub's own cache.
        local_files_only: whether to read the cache and never the network.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ConnectionError: if the hub answers with an error or not at all.
        FileNotFoundError: if there is no such folder, repository, revision or file.
        ImportError: if the hub is asked and `huggingface_hub` is not installed.
        PermissionError: if the hub wants a token, or another one.
        TypeError: if the first argument is neither text nor a path.
        ValueError: if the file is none of `save_companion`'s.

    Example:
        >>> import tempfile
        >>> from l2o.companion import park_predictor
        >>> model = NetworkPredictor(park_predictor("ng_t"))
        >>> folder = save_pretrained(model, tempfile.mkdtemp())
        >>> from_pretrained(folder).config == model.config
        True
    """
    path = fetch(
        repo_or_folder,
        filename,
        loader="load_companion",
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    return load_companion(path, evaluate=evaluate)


def save_pretrained(
    model: Companion | Path,
    folder: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
) -> Path:
    """Write a folder that can be shared: the network's file and a model card.

    Args:
        model: the network; or the path of a file, whose provenance goes along. A file
            of a network with probes is refused: load it with `evaluate` first.
        folder: where to write; made if it does not exist.
        provenance: added to what is known, key by key. `data`, `results` and `limits`
            are prose for the card.
        repo_id: what the card tells readers to load; None is the folder's name.

    Returns:
        The folder.

    Raises:
        OSError: if the folder cannot be written.
        TypeError: if the provenance holds other values than JSON's.
    """
    folder, known = Path(folder), {}
    if isinstance(model, Path):
        known = read_companion_provenance(model)
        model = load_companion(model)
    known |= dict(provenance or {})
    save_companion(model, folder / COMPANION_FILE, provenance=known)
    card = _card(model, repo_id or folder.name, known)
    write_whole(folder / "README.md", card.encode())
    return folder


def push_to_hub(
    model: Companion | Path,
    repo_id: str,
    *,
    provenance: Mapping[str, Any] | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Add a network that reads networks",
) -> str:
    """Upload a network and its model card to a repository of the hub.

    Args:
        model: as for `save_pretrained`.
        repo_id: `owner/name`; the repository is made if it does not exist.
        provenance: as for `save_pretrained`.
        private: whether a repository that is made now is hidden from others.
        token: one that may write; None uses the one that `hf auth login` kept.
        commit_message: of the commit in the repository.

    Returns:
        The address of the commit.

    Raises:
        ConnectionError: if the hub cannot be reached or refuses the upload.
        ImportError: if `huggingface_hub` is not installed.
        PermissionError: if the hub does not let this token write there.
        ValueError: if `repo_id` is not a name that the hub takes.
    """
    return push(
        lambda folder: save_pretrained(
            model, folder, provenance=provenance, repo_id=repo_id
        ),
        repo_id,
        private=private,
        token=token,
        commit_message=commit_message,
    )


def _card(model: Companion, repo_id: str, known: Mapping[str, Any]) -> str:
    """Return the model card; text of the provenance stays one line of plain text."""
    kinds: dict[type, str] = {
        NetworkClassifier: "A classifier",
        NetworkPredictor: "A predictor",
        NetworkEditor: "An editor",
    }
    has_probes = model.config.inputs.num_probes > 0
    prose = {
        name: printable(known[name], 2000) if known.get(name) else _NOT_STATED
        for name in _PROSE
    }
    return _CARD.format(
        title=printable(repo_id.rstrip("/").rsplit("/", 1)[-1]),
        kind=kinds[type(model)],
        count=sum(weight.numel() for weight in model.parameters()),
        filename=COMPANION_FILE,
        repo_id=json.dumps(repo_id),
        evaluate=", evaluate=..." if has_probes else "",
        provenance=json.dumps(dict(known), indent=2),
        **prose,
    )
