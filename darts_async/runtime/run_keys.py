"""The keys of one run's encrypted links: a folder of its own, made for the run and removed with it.

One server's pair for whoever binds, one client's pair for each role, and, where generators may join from elsewhere, one
for them: its folder `join` is all that another host needs. Invariants: secret keys are in these files alone
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

__all__ = ["JOIN", "RunKeys"]

JOIN: Final = "join"
"""Folder of what a joining generator brings, in the place of a generator's own keys; name of its link to the gate."""
_SERVER: Final = "server"


class RunKeys:
    """The keys in a folder. Reads a key when it is asked for: a role that binds nothing never sees the server's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, *, join: bool = False) -> RunKeys:
        """Make keys anew; those of an earlier start of the run are worth nothing any more. Raises `OSError`."""
        remove_folder(folder)
        make_private_folder(folder)
        for name in (_SERVER, *ROLES):
            _write(folder, name, new_pair())
        if join:
            make_private_folder(folder / JOIN)
            _write(folder / JOIN, "generator", new_pair())
            public = f"{_SERVER}.public"
            write_private(folder / JOIN / public, read_private(folder / public))
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
        keys: dict[str, frozenset[bytes]] = {}
        for link in links:
            roles = roles_that_connect(link)
            joiners = self.joiners() if "generator" in roles else frozenset()
            keys[link] = joiners.union(self._key(f"{role}.public") for role in roles)
        return keys

    def joiners(self) -> frozenset[bytes]:
        """Public keys of generators from elsewhere: one, or none where nobody may join. Raises `RunFailed`."""
        has_one = (self.folder / JOIN).is_dir()
        return frozenset({self._key(f"{JOIN}/generator.public")}) if has_one else frozenset()

    def serve_joiners(self) -> ServeKeys:
        """For the end that binds the link on which they ask. Raises `RunFailed`."""
        return ServeKeys(self._pair(_SERVER), JOIN)

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


def _write(folder: Path, name: str, pair: KeyPair) -> None:
    write_private(folder / f"{name}.public", pair.public)
    write_private(folder / f"{name}.secret", pair.secret)
