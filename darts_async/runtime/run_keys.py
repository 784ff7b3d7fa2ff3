"""The keys of one run's encrypted links: a folder of its own, made for the run and removed with it.

One server's pair for whoever binds, one client's pair for each role. Invariants: secret keys are in these files alone
(never in a config, a log, the ledger or a command line), which this user alone can read; a restarted role finds the
keys that it had, so that its peers know it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from darts_async.errors import RunFailed
from darts_async.messages import ROLES, Role
from darts_async.owned_files import make_private_folder, read_private, remove_folder, write_private
from darts_async.runtime.topology import LinkName, roles_that_connect
from darts_async.transport.curve import ConnectKeys, KeyPair, ServeKeys, is_key, new_pair

__all__ = ["RunKeys"]

_SERVER: Final = "server"


class RunKeys:
    """The keys in a folder. Reads a key when it is asked for: a role that binds nothing never sees the server's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> RunKeys:
        """Make keys anew; those of an earlier start of the run are worth nothing any more. Raises `OSError`."""
        remove_folder(folder)
        make_private_folder(folder)
        for name in (_SERVER, *ROLES):
            pair = new_pair()
            write_private(folder / f"{name}.public", pair.public)
            write_private(folder / f"{name}.secret", pair.secret)
        return cls(folder)

    def remove(self) -> None:
        """Remove the folder: the run is over."""
        remove_folder(self.folder)

    def serve(self, link: LinkName) -> ServeKeys:
        """For the end that binds a link. Raises `RunFailed`."""
        return ServeKeys(self._pair(_SERVER), link)

    def connect(self, role: Role) -> ConnectKeys:
        """For a role's connections. Raises `RunFailed`."""
        return ConnectKeys(self._pair(role), self._key(f"{_SERVER}.public"))

    def allowed(self, links: tuple[LinkName, ...]) -> dict[str, frozenset[bytes]]:
        """Public keys that may connect, by link: those of the roles that have a part in it. Raises `RunFailed`."""
        return {link: frozenset(self._key(f"{role}.public") for role in roles_that_connect(link)) for link in links}

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self._key(f"{name}.public"), self._key(f"{name}.secret"))

    def _key(self, name: str) -> bytes:
        path = self.folder / name
        try:
            key = read_private(path)
        except OSError as error:
            raise RunFailed(f"a key of the run cannot be read: {error}") from error
        if not is_key(key):
            raise RunFailed(f"{path} does not hold a key")
        return key
