"""Data of a DVC project at one revision, through DVC itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medloop import params
from medloop.errors import Refused, Unreachable
from medloop.fetching.cache import Object, pseudonym

try:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo.open_repo import clean_repos
    from dvc.scm import CloneError, RevError
    from dvc_data.index import DataIndexDirError
except ImportError:
    raise Refused(
        "ingest.dvc needs DVC, which this environment lacks: install it with support for its remote, e.g. dvc[s3], "
        "or run ingest in an image that has it (pipeline.images)"
    ) from None


class Revision:
    """A folder that DVC tracks, in a repository at a revision."""

    def __init__(self, reference: params.DvcReference) -> None:
        self.reference = reference
        self.name = f"{reference.path} at {reference.rev} of {reference.repo}"
        self.listing: str | None = None  # DVC's hash of the folder, where it is tracked as one

    @contextmanager
    def opened(self) -> Iterator["Revision"]:
        """Hold a clone of the repository, where it is not a folder of this machine."""
        private = (Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "private").absolute()
        core = {"site_cache_dir": str(private / "dvc"), "analytics": False}  # where DVC keeps the names of files
        config = {"core": core, "cache": {"dir": str(private / "dvc-cache")}}
        try:
            with self._understood():
                self.files = DVCFileSystem(self.reference.repo, rev=self.reference.rev, config=config)
            yield self
        finally:
            clean_repos()

    def objects(self) -> list[Object]:
        """Return every file below the folder; raise Refused where DVC does not track one."""
        top = self.reference.path.strip("/")
        with self._understood():
            about = self.files.info(top)
            listed: dict[str, Any] = self.files.find(top, detail=True)
        if about["type"] != "directory" or not listed:
            raise Refused(f"{self.name} is no folder with files: ingest.dvc.path names a folder")
        self.listing = about.get("md5")
        return [self._object(name.removeprefix(f"{top}/"), info) for name, info in listed.items()]

    def download(self, each: Object, path: Path) -> None:
        """Write a file to `path`."""
        with self._understood(each):
            self.files.get_file(f"{self.reference.path.strip('/')}/{each.path}", str(path))

    def _object(self, path: str, info: dict[str, Any]) -> Object:
        tracked = info.get("dvc_info", {}).get("entry")
        if tracked is None or tracked.hash_info is None:
            raise Refused(f"{self.name} holds files that DVC does not track: `dvc add` the folder, and push")
        found = tracked.hash_info  # DVC 2 hashed texts with other line ends, under another name
        return Object(path, None, found.value, found.value if found.name == "md5" else None)

    @contextmanager
    def _understood(self, each: Object | None = None) -> Iterator[None]:
        """Raise what a user can mend in place of DVC's errors."""
        reference = self.reference
        what = f"{pseudonym(each)} of {self.name}" if each else self.name
        push = "`dvc push` there, with that revision checked out, or give DVC here what it needs to read its remote"
        try:
            yield
        except RevError:
            raise Refused(f"{reference.repo} has no revision {reference.rev}; check ingest.dvc.rev") from None
        except CloneError:
            raise Unreachable(
                f"{reference.repo} cannot be cloned; check ingest.dvc.repo and that git reaches it"
            ) from None
        except DataIndexDirError:
            raise Refused(
                f"the DVC remote of {reference.repo} lacks the data of {self.name}, or will not give it: {push}"
            ) from None
        except FileNotFoundError:
            if each is None:
                raise Refused(f"{self.name} does not exist; check ingest.dvc.path") from None
            raise Refused(f"the DVC remote of {reference.repo} lacks {what}, or will not give it: {push}") from None
        except DvcException as error:
            raise Refused(f"DVC could not read {what} ({type(error).__name__}): {push}") from None
