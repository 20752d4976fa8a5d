"""Run a command without network, and take it down with its parent: ``python -I isolate.py STATUS PARENT COMMAND...``.

A script of its own, on the standard library alone, because a process can only leave the network before it starts
threads: :mod:`golf.runtime.sandbox` starts it, it becomes the command. STATUS receives ``none`` when the network is
gone, else why it could not be taken away (containers often forbid it).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
PR_SET_PDEATHSIG = 1
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def leave_network() -> str:
    """Move this process into a network of its own that holds only loopback; ``none``, or why it was refused."""
    if not sys.platform.startswith("linux"):
        return f"no network namespaces on {sys.platform}"
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return f"unshare: {os.strerror(ctypes.get_errno())}"
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        except OSError:
            pass  # files keep their owner either way; only the names that the process sees differ
    try:
        _loopback_up()
    except OSError as error:
        return f"none, without loopback: {error.strerror}"
    return "none"


def _loopback_up() -> None:
    """Ranks of one machine meet on 127.0.0.1, which a new network namespace has but leaves down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(handle, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we asked
            sys.exit(143)


def main(status: str, parent: str, command: list[str]) -> None:
    """Leave the network, say so in the file ``status``, become ``command``."""
    die_with(int(parent))
    network = leave_network()
    Path(status).write_text(network, encoding="utf-8")
    if network.startswith("none"):
        os.environ.update(GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
