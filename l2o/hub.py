"""Rules that people share: a folder, or a repository of the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import write_whole
from .hub_files import fetch, push
from .rule.build import AnyRule
from .rule.checkpoint import LICENSE, load_rule, read_provenance, save_rule
from .rule.model_card import model_card as model_card

RULE_FILE = "rule.safetensors"
"""The name of the rule's file in a folder or a repository."""


def from_pretrained(
    repo_or_folder: str | Path,
    *,
    filename: str = RULE_FILE,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> AnyRule:
    """Return a shared rule.

    Only the one safetensors file is fetched and nothing in it is executed. An existing
    folder wins over a repository of the same name.

    Args:
        repo_or_folder: a folder that `save_pretrained` wrote, or a repository
            `owner/name` of the hub.
        filename: the rule's file there.
        revision: branch, tag or commit of the repository; None is its main branch.
            Name a commit where results must stay the same.
        token: for private repositories; None uses the one that `hf auth login` kept.
        cache_dir: where downloads are kept; None is the hub's own cache.
        local_files_only: whether to read the cache and never the network.

    Returns:
        The rule, on the CPU.

    Raises:
        ConnectionError: if the hub cannot be reached, hangs up early, redirects
            without end or answers with an error.
        FileNotFoundError: if there is no such folder, repository, revision or file.
        ImportError: if the hub is asked and `huggingface_hub` is not installed.
        PermissionError: if the hub wants a token, or another one.
        TypeError: if the first argument is neither text nor a path.
        ValueError: if the file is no rule, or a file is given for a folder.

    Example:
        >>> import tempfile
        >>> folder = save_pretrained("ff", tempfile.mkdtemp())
        >>> from_pretrained(folder).config.net.kind
        'ff'
    """
    path = fetch(
        repo_or_folder,
        filename,
        loader="load_rule",
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    return load_rule(path)


def save_pretrained(
    rule: AnyRule | str | Path,
    folder: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
) -> Path:
    """Write a folder that can be shared: the rule's file and its model card.

    Args:
        rule: the rule; or, as for `load_rule`, a shipped name or a path, whose
            provenance goes along.
        folder: where to write; made if it does not exist.
        provenance: added to what is known, key by key. `tried`, `results` and
            `limits` are prose for the card; `license` is the short name (SPDX) of a
            licence, MIT by default.
        repo_id: what the card tells readers to load; None is the folder's name.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if `rule` names neither a shipped rule nor a file.
        OSError: if the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = save_pretrained("ff", tempfile.mkdtemp(),
        ...                          provenance={"limits": "Images only."})
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'rule.safetensors']
    """
    folder = Path(folder)
    known: dict[str, Any] = {"license": LICENSE}
    if not isinstance(rule, AnyRule):
        known = read_provenance(rule)
        rule = load_rule(rule)
    known |= dict(provenance or {})
    card = model_card(
        rule, repo_id=repo_id or folder.name, filename=RULE_FILE, provenance=known
    )
    save_rule(rule, folder / RULE_FILE, provenance=known)
    write_whole(folder / "README.md", card.encode())
    return folder


def push_to_hub(
    rule: AnyRule | str | Path,
    repo_id: str,
    *,
    provenance: Mapping[str, Any] | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Add a rule",
) -> str:
    """Upload a rule and its model card to a repository of the hub.

    Args:
        rule: as for `save_pretrained`.
        repo_id: `owner/name`; the repository is made if it does not exist.
        provenance: as for `save_pretrained`.
        private: whether a repository that is made now is hidden from others.
        token: one that may write; None uses the one that `hf auth login` kept.
        commit_message: of the commit in the repository.

    Returns:
        The address of the commit. Its hash is a `revision` for `from_pretrained`.

    Raises:
        FileNotFoundError: if `rule` names neither a shipped rule nor a file.
        ImportError: if `huggingface_hub` is not installed.
        ConnectionError: if the hub cannot be reached or refuses the upload.
        PermissionError: if the hub does not let this token write there.
        ValueError: if `repo_id` is not a name that the hub takes.

    Example:
        >>> push_to_hub("runs/mine/best.safetensors", "me/my-rule",
        ...             provenance={"limits": "..."})  # doctest: +SKIP
    """
    return push(
        lambda folder: save_pretrained(
            rule, folder, provenance=provenance, repo_id=repo_id
        ),
        repo_id,
        private=private,
        token=token,
        commit_message=commit_message,
    )
