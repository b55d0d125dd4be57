"""Files that people share: in a folder, or in a repository of the Hugging Face hub."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from .files import printable


def fetch(
    repo_or_folder: str | Path,
    filename: str,
    *,
    loader: str,
    revision: str | None,
    token: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    """Return the path of a file in a folder, or of the copy of a repository's file.

    Args:
        repo_or_folder: as for `l2o.hub.from_pretrained`, whose errors these are.
        filename: the file there.
        loader: the function that reads a single file, for a message.
        revision: branch, tag or commit.
        token: for private repositories.
        cache_dir: where downloads are kept.
        local_files_only: whether to read the cache and never the network.
    """
    place = _as_path(repo_or_folder)
    if place.is_file():
        raise ValueError(
            f"from_pretrained needs a folder or a repository; got the file {place}. "
            f"Load a single file with {loader}."
        )
    if place.is_dir():
        path = place / filename
        if not path.is_file():
            found = sorted(item.name for item in place.glob("*.safetensors"))
            raise FileNotFoundError(
                f"from_pretrained needs the file {filename!r} in {place}; got a folder "
                f"with the files {printable(found)}. Pass filename=, or write the "
                "folder with save_pretrained."
            )
        return path
    hub = hub_client("from_pretrained")
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
    return Path(path)


def push(
    write: Callable[[str], object],
    repo_id: str,
    *,
    private: bool,
    token: str | None,
    commit_message: str,
) -> str:
    """Upload what a function writes to a repository of the hub.

    Args:
        write: writes the files into an empty folder.
        repo_id: `owner/name`, as for `l2o.hub.push_to_hub`, whose errors these are.
        private: whether a repository that is made now is hidden from others.
        token: one that may write.
        commit_message: of the commit in the repository.

    Returns:
        The address of the commit.
    """
    hub_client("push_to_hub")  # before anything is written
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        return _upload(folder, repo_id, private, token, commit_message)


def _upload(
    folder: str, repo_id: str, private: bool, token: str | None, commit_message: str
) -> str:
    """Upload a folder; return the address of the commit."""
    hub = hub_client("push_to_hub")
    api = hub.HfApi(token=token)
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


def hub_client(caller: str) -> ModuleType:
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
