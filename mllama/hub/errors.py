"""Errors of the hub's client, reworded as one line that names the solution."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mllama.errors import HubError, MllamaError

_LOG_IN = "set HF_TOKEN to your token or log in with `hf auth login`"


def hub_error(error: Exception, name: str, revision: str) -> MllamaError:
    """Returns the error to raise in place of one of the client, httpx or the system.

    Args:
        error: The error of a request for a repository.
        name: The repository, ``owner/name``.
        revision: The requested revision.
    """
    if isinstance(error, MllamaError):
        return error
    return HubError("; ".join(explain(error, name, revision)))


def explain(error: Exception, name: str, revision: str) -> tuple[str, str]:
    """Returns a description of the problem, and of its solution."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        DisabledRepoError,
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    endpoint = constants.ENDPOINT
    page = f"{endpoint}/{name}"
    cause = error.__cause__
    if isinstance(error, (LocalEntryNotFoundError, ValueError)) and isinstance(
        cause, (OSError, httpx.HTTPError)
    ):
        # The client fell back on its cache, which lacks the file.
        return explain(cause, name, revision)
    match error:
        case HFValidationError():
            return (
                f"{name!r} is neither a local directory nor the name of a repository",
                _first_line(error),
            )
        case OfflineModeIsEnabled():
            return (
                f"HF_HUB_OFFLINE forbids requests to the hub for {name}",
                "unset it once to download the model, or give a directory",
            )
        case GatedRepoError() if _has_token():
            return (
                f"{name} is gated, and the account of your token has no access",
                f"ask for it on {page}, or {_LOG_IN}",
            )
        case GatedRepoError():
            return f"{name} is gated", f"ask for access on {page}, then {_LOG_IN}"
        case RevisionNotFoundError():
            return (
                f"{name} has no revision {revision!r}",
                f"see {page}/tree/main for its branches and tags",
            )
        case RemoteEntryNotFoundError():
            return f"{page} lists a file that doesn't exist", _first_line(error)
        case DisabledRepoError():
            return f"{name} is disabled on the hub", f"see {page}, or use a copy of it"
        case RepositoryNotFoundError() if _has_token():
            return (
                f"{name} is no local directory, and {endpoint} has no such model or "
                "hides it from the account of your token",
                f"check the name, or {_LOG_IN}",
            )
        case RepositoryNotFoundError():
            return (
                f"{name} is no local directory, and {endpoint} has no such model or "
                "hides it from requests without a token",
                f"check the name, or {_LOG_IN}",
            )
        case HfHubHTTPError() if error.response.status_code == 401:
            return f"the hub refuses the token sent for {name}", _LOG_IN
        case HfHubHTTPError() if error.response.status_code == 403:
            return f"the token sent has no permission to read {name}", _LOG_IN
        case HfHubHTTPError():
            return (
                f"{endpoint} answers requests for {name} with status "
                f"{error.response.status_code}",
                "start again later: partial downloads are kept",
            )
        case httpx.UnsupportedProtocol():
            return f"{endpoint!r} is not a valid address", "check HF_ENDPOINT"
        case httpx.HTTPError():
            return (
                f"{endpoint} can't be reached for {name} ({_first_line(error)})",
                "check the connection, the proxy and HF_ENDPOINT, and start again: "
                "partial downloads are kept",
            )
        case OSError() if not isinstance(error, FileMetadataError):
            return _explain_disk(error)
        case _:
            return (
                f"{endpoint} doesn't answer like the hub "
                f"({type(error).__name__}: {_first_line(error)})",
                "check HF_ENDPOINT",
            )


def _explain_disk(error: OSError) -> tuple[str, str]:
    place = f"the hub's cache {cache_path()}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of {place} is full",
            "free some space and start again (partial downloads are kept), or move the "
            "cache with HF_HOME",
        )
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"{place} can't be used: {error.strerror or _first_line(error)}{where}",
        "make it writable, or move it with HF_HOME",
    )


def cache_path() -> Path:
    """Returns the directory in which the hub's client keeps repositories."""
    from huggingface_hub import constants

    return Path(os.path.abspath(Path(constants.HF_HUB_CACHE).expanduser()))


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
