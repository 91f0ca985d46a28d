"""The account PostgreSQL runs under when the stack is started by root, because PostgreSQL refuses to be root.

No user is created. Two ways exist, and the first that works here is taken:

- `drop`: the uid of `nobody`, keeping the capability CAP_DAC_OVERRIDE alone. Without it the server could not reach
  its binaries or its data when the checkout lies below a directory that only root may enter, as a mkdtemp one or
  /root. Data then belongs to `nobody`. Where the capability cannot be kept, a checkout that all may enter will do.
- `namespace`: a user namespace in which root's own uid bears the number of `nobody`. It serves containers that map a
  single uid, where no other uid can be assumed. Data then belongs to root.

Copying the binaries to a world-readable place was rejected: it leaves 40 MB behind and does not help the data.
"""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.guard import LAUNCHER

# Run in the account: initdb looks for what PostgreSQL needs and refuses root, and says why it is not content.
TRIAL = 'said=$("$0" --show -D "$1" 2>&1) || { echo "$said" >&2; exit 1; }; [ -w "$1" ] && [ -x "$1" ]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    options: tuple[str, ...]
    """Of launch.py."""
    owner: tuple[int, int] | None
    """Whom the data must belong to; None leaves it as it is."""

    def own(self, directory: Path) -> None:
        """Hands over a directory with all its content, unless it is handed over already."""
        if self.owner is None or (directory.stat().st_uid, directory.stat().st_gid) == self.owner:
            return
        for parent, directories, files in os.walk(directory):
            for name in (*directories, *files):
                os.chown(Path(parent, name), *self.owner, follow_symlinks=False)
        # Last: its owner tells that all below is done.
        os.chown(directory, *self.owner)


CURRENT = Account(options=(), owner=None)


def unprivileged(*, initdb: Path, data: Path) -> Account:
    """The account to run PostgreSQL under, with `data` (an existing directory) handed over to it."""
    if os.geteuid() != 0:
        return CURRENT
    refusals: list[str] = []
    for account in _candidates():
        try:
            account.own(data)
        except OSError as error:
            refusals.append(f"no other uid can own the data: {error.strerror}")
            continue
        command = [sys.executable, "-I", "-S", str(LAUNCHER), *account.options, "--", "/bin/sh", "-c", TRIAL]
        trial = subprocess.run([*command, str(initdb), str(data)], check=False, capture_output=True, text=True)
        if trial.returncode == 0:
            return account
        refusals.append(trial.stderr.strip().rpartition("\n")[2] or "no access to the files")
    reasons = "; ".join(refusals)
    raise StackError(f"PostgreSQL refuses to run as root and no other account works here ({reasons}): use another user")


def _candidates() -> tuple[Account, ...]:
    uid, gid = _nobody()
    drop = Account(options=("--drop", f"{uid}:{gid}"), owner=(uid, gid))
    if sys.platform != "linux":
        return (drop,)
    return drop, Account(options=("--namespace", f"{uid}:{gid}"), owner=(os.geteuid(), os.getegid()))


def _nobody() -> tuple[int, int]:
    """initdb insists on an account that the user database knows."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        entry = next((entry for entry in pwd.getpwall() if entry.pw_uid != 0), None)
    if entry is None:
        raise StackError("PostgreSQL refuses to run as root and /etc/passwd knows no other user: add one")
    return entry.pw_uid, entry.pw_gid
