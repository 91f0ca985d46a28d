"""Becomes the given command, after the steps that must happen inside the new process.

Run as a bare script (`python -I -S launch.py OPTIONS -- COMMAND`); it ends in exec, so nothing of it stays:

1. a session of its own, so that Ctrl-C in the terminal reaches only the supervisor;
2. the announcement to the guard, made by the process itself: there is no moment at which it lives unannounced;
3. on request, another account than root (see accounts.py for why and when);
4. on Linux, the kernel's promise to signal it when its parent dies, for the case that the guard is killed as well.
"""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION_3 = 0x20080522


def main() -> None:
    options = parse_options()
    parent = os.getppid()
    os.setsid()
    if options.detach and os.fork():
        os._exit(0)
    if options.guard_fd is not None:
        os.write(options.guard_fd, f"+{os.getpid()} {options.stop_signal}\n".encode())
        os.close(options.guard_fd)
    if options.drop is not None:
        drop_root(options.drop)
    if options.namespace is not None:
        leave_root_by_namespace(options.namespace)
    if options.guard_fd is not None and sys.platform == "linux":
        die_with(parent, signal.Signals[options.stop_signal])
    try:
        os.execvp(options.command[0], options.command)
    except OSError as error:
        sys.exit(f"cannot run {options.command[0]}: {error.strerror}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch")
    parser.add_argument("--guard-fd", type=int, help="write end of the guard's pipe")
    parser.add_argument("--stop-signal", default="SIGTERM")
    parser.add_argument("--detach", action="store_true", help="do not stay a child of the caller")
    parser.add_argument("--drop", type=account, metavar="UID:GID")
    parser.add_argument("--namespace", type=account, metavar="UID:GID")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def account(text: str) -> tuple[int, int]:
    uid, gid = text.split(":")
    return int(uid), int(gid)


def drop_root(target: tuple[int, int]) -> None:
    """Keeps the right to pass file permissions, where the kernel and the container grant it, and nothing else."""
    uid, gid = target
    libc = ctypes.CDLL(None, use_errno=True)
    # Else setuid would take the capability away, and access(2), by which PostgreSQL finds its binaries, disregard it.
    keeps = sys.platform == "linux" and libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0
    os.setgroups([])
    os.setregid(gid, gid)
    os.setreuid(uid, uid)
    if keeps:
        mask = 1 << CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        if libc.capset(header, capability_sets(mask)) != 0:
            libc.capset(header, capability_sets(0))
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def capability_sets(mask: int) -> ctypes.Array[ctypes.c_uint32]:
    """Effective, permitted and inheritable; the low words, then the high ones."""
    return (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)


def leave_root_by_namespace(target: tuple[int, int]) -> None:
    uid, gid = target
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        sys.exit(f"cannot create a user namespace: {os.strerror(ctypes.get_errno())}")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def die_with(parent: int, number: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the supervisor died during the start")


if __name__ == "__main__":
    main()
