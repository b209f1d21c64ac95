"""What the hub's refusals and failures mean for the user, and what to type."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from emotion_circuits.errors import ModelError, StoreError, UnknownModelError, UsageError, near, unknown_name
from emotion_circuits.models.registry import embedded_aliases, find_entry, load_registry
from emotion_circuits.models.sources.errors import UnreachableError
from emotion_circuits.models.sources.hub_settings import hub_cache, hub_endpoint


@contextlib.contextmanager
def hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turn the hub library's errors into ones that say what to type."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of the httpx the library uses
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise _no_access(repository, error.response.status_code) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise no_such_name(repository) from error
    except RevisionNotFoundError as error:
        raise UsageError(
            f"{repository} has no revision {revision!r}", f"see {hub_endpoint()}/{repository}/commits/main"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise _no_access(repository, status) from error
        raise _unreachable(repository, f"it answered {status}") from error
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        raise _unreachable(repository, reason) from error
    except OSError as error:
        if error.errno is not None:  # the disk: full, not writable
            raise StoreError(
                f"downloading {repository} to {hub_cache()} failed: {error.strerror}",
                "free some space there or set HF_HOME to a folder that is writable",
            ) from error
        raise ModelError(
            f"the download of {repository} is incomplete: {str(error).splitlines()[0]}", "try again"
        ) from error


def _unreachable(repository: str, reason: str) -> UnreachableError:
    where = hub_endpoint()
    if "/" not in repository and find_entry(repository) is None and (hint := _near_name(repository)):
        return UnreachableError(
            f"no model is called {repository!r} here, and the hub ({where}) cannot be reached to look there: {reason}",
            hint + embedded_hint(),
        )
    return UnreachableError(
        f"{repository} is not on this machine and the hub ({where}) cannot be reached: {reason}", embedded_hint()
    )


def not_cached(repository: str, revision: str | None, cache: Path) -> UnreachableError:
    """Offline mode is on and the repository was never fetched."""
    version = f" at {revision}" if revision else ""
    hint = _near_name(repository) if find_entry(repository) is None else ""
    return UnreachableError(
        f"{repository}{version} is not in the hub cache {cache} and offline mode is on",
        f"{hint}fetch it once with a network: emotion-circuits models fetch {repository}; {embedded_hint()}",
    )


def _no_access(repository: str, status: int) -> ModelError:
    page = f"{hub_endpoint()}/{repository}"
    token = "the token in HF_TOKEN (or from `hf auth login`) was refused" if _has_token() else "no token is set"
    return ModelError(
        f"{repository} is gated: the hub refused the download ({status}) and {token}",
        f"accept the licence at {page}, make a token at {hub_endpoint()}/settings/tokens and set HF_TOKEN=…; "
        f"{embedded_hint()}",
    )


def no_such_name(repository: str) -> UnknownModelError:
    """Neither the registry nor the hub knows the name."""
    error = unknown_name("model", repository, list(load_registry()))
    private = "" if _has_token() else "; a private repository needs HF_TOKEN"
    return UnknownModelError(
        f"{error.what}; the hub ({hub_endpoint()}) has no {repository!r} either{private}",
        f"{_near_name(repository)}emotion-circuits models list shows the known names; a folder or .gguf file works too",
        repository,
    )


def _near_name(name: str) -> str:
    """``did you mean …? `` with the alias whose name here, or on the hub, is near; else nothing."""
    spelt = {known.rpartition("/")[2].lower(): entry.name for entry in load_registry().values() for known in entry.hub}
    spelt |= {entry.name: entry.name for entry in load_registry().values()}
    return near(name.rpartition("/")[2].lower(), spelt)


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def embedded_hint() -> str:
    """The models that work without a hub, as half a sentence."""
    return f"these models need no hub: {', '.join(embedded_aliases())}"
