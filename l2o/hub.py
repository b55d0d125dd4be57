"""Rules that people share: a folder, or a repository of the Hugging Face hub."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .files import printable, write_whole
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
    """Return a rule that somebody shared.

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
    place = _as_path(repo_or_folder)
    if place.is_file():
        raise ValueError(
            f"from_pretrained needs a folder or a repository; got the file {place}. "
            "Load a single file with load_rule."
        )
    if place.is_dir():
        path = place / filename
        if not path.is_file():
            found = sorted(item.name for item in place.glob("*.safetensors"))
            raise FileNotFoundError(
                f"from_pretrained needs the file {filename!r} in {place}; got a folder "
                f"with the rule files {printable(found)}. Pass filename=, or write the "
                "folder with save_pretrained."
            )
        return load_rule(path)
    hub = _hub("from_pretrained")
    with _failures_told(
        hub,
        f"from_pretrained needs {filename!r} of {repo_or_folder} from the hub",
        "Try again, or copy the folder and pass its path.",
        f"a token that may read {repo_or_folder}",
    ):
        try:
            path = hub.HfApi(token=token).hf_hub_download(
                str(repo_or_folder),
                filename,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        except hub.errors.HFValidationError as error:
            raise FileNotFoundError(
                "from_pretrained needs an existing folder or a repository owner/name; "
                f"got {printable(repr(str(repo_or_folder)))}, which is neither. "
                "Check the spelling."
            ) from error
        except hub.errors.LocalEntryNotFoundError as error:
            raise FileNotFoundError(
                f"from_pretrained needs {filename!r} of {repo_or_folder} in the cache "
                f"or a network to fetch it; got neither ({_first_line(error)}). "
                "Connect once, or copy the folder and pass its path."
            ) from error
        except (
            hub.errors.RepositoryNotFoundError,
            hub.errors.RevisionNotFoundError,
            hub.errors.EntryNotFoundError,
        ) as error:
            raise FileNotFoundError(
                f"from_pretrained needs {filename!r} at revision "
                f"{revision or 'main'!r} of the repository {repo_or_folder}; got the "
                f"answer {_first_line(error)!r}. "
                "Check name, revision and filename, or pass token= if it is private."
            ) from error
    return load_rule(Path(path))


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
            licence, MIT where nobody names one.
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
    hub = _hub("push_to_hub")
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(rule, folder, provenance=provenance, repo_id=repo_id)
        with _failures_told(
            hub,
            f"push_to_hub needs the hub to take files for {repo_id}",
            "Check the name and the network, then try again.",
            f"a token that may write to {repo_id}",
        ):
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repo_id, folder_path=folder, commit_message=commit_message
                )
            except hub.errors.HFValidationError as error:
                raise ValueError(
                    f"push_to_hub needs a repository owner/name; got {repo_id!r}. "
                    f"{_first_line(error)}"
                ) from error
    return str(commit.commit_url)


def _hub(caller: str) -> ModuleType:
    """Import the optional package, or say how to get it."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            f"{caller} needs the package huggingface_hub to reach the hub; got none. "
            "Install it with pip install 'l2o[hub]', or pass an existing folder."
        ) from error
    return huggingface_hub


def _request_error(hub: ModuleType) -> type[Exception]:
    """Return the base class of what the hub's HTTP client raises."""
    return hub.errors.HfHubHTTPError.__bases__[0]


@contextmanager
def _failures_told(
    hub: ModuleType, needs: str, advice: str, token: str
) -> Iterator[None]:
    """Turn what a failed request means to the caller into one line.

    Args:
        hub: the package.
        needs: the message up to its first semicolon.
        advice: what to do next.
        token: what is missing if the hub refused.
    """
    try:
        yield
    except FileNotFoundError:
        raise  # says already what is missing
    except (_request_error(hub), OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the hub's
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise PermissionError(
                f"{needs.split()[0]} needs {token}; got the answer {status}. Log in "
                "with `hf auth login`, or pass token=."
            ) from error
        raise ConnectionError(
            f"{needs}; got {_first_line(error)!r}. {advice}"
        ) from error


def _as_path(repo_or_folder: object) -> Path:
    """Return the folder that is meant, if it is one."""
    if not isinstance(repo_or_folder, str | os.PathLike):
        raise TypeError(
            "from_pretrained needs a folder or a repository; got "
            f"{type(repo_or_folder).__name__} {printable(repr(repo_or_folder), 40)}. "
            "Pass a path, or owner/name."
        )
    path = Path(repo_or_folder)
    try:
        path.exists()
    except OSError as error:
        raise FileNotFoundError(
            "from_pretrained needs a folder or a repository; got "
            f"{printable(repr(str(path)))}, which no folder can be called "
            f"({error.strerror}). Check the spelling."
        ) from error
    return path


def _first_line(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), repr(error))
    return printable(line)
