"""Programs in a box: no network, no files but a few read-only ones and an empty folder, no environment, limits of
everything, and nothing left when it ends.

How: bubblewrap where it is installed and works, else namespaces, Landlock and seccomp by the kernel's own calls
(`offon.tasks.sandbox.confine`). Each way is tried once, from outside: a box that shows a file, an environment or
another process is not used. Where none works code is refused, unless its user allows it to run without.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from offon.errors import ConfigError
from offon.tasks.sandbox import confine

How = Literal["bubblewrap", "namespaces", "none"]
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
FIRST_USER, USERS = 1_900_000_000, 90_000_000  # where root starts a box: ids that no one has
LAUNCH_LIMIT_S = 30.0  # until the door is shut, on a busy machine


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a box may use. Memory (address space) and CPU time are per process, the rest for the whole box.

    wall_s      seconds until all of it is killed        cpu_s         seconds of computing
    processes   threads count as processes               output_bytes  of each stream that is read
    file_bytes  of one file                              disk_bytes    of all files
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_bytes: int = 1 << 30
    processes: int = 16
    output_bytes: int = 1 << 20
    file_bytes: int = 16 << 20
    disk_bytes: int = 64 << 20
    open_files: int = 64

    def resources(self) -> dict[str, int]:
        """By the names of setrlimit."""
        return {
            "AS": self.memory_bytes,
            "CPU": math.ceil(self.cpu_s),
            "FSIZE": self.file_bytes,
            "NOFILE": self.open_files,
            "NPROC": self.processes,
        }


def environment(home: str) -> dict[str, str]:
    """All that a program in a box inherits: one thread per library, a fixed order of sets."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def visible_paths() -> list[str]:
    """What a box shows of this machine, read-only: the system's programs and libraries, and this Python."""
    executable = Path(sys.executable)
    pythons = {Path(sys.prefix), Path(sys.base_prefix), executable.parent, executable.resolve().parent} - {Path("/")}
    shown = {*map(Path, SYSTEM), *pythons}
    tops = sorted(str(path) for path in pythons if not shown & set(path.parents))
    return [*(path for path in SYSTEM if os.path.lexists(path)), *tops]


@dataclass
class Boxed:
    """A program in a box, from outside. Use as a context: what is left of it is killed at the end."""

    process: subprocess.Popen
    status: int  # the launcher's descriptor: "ready", or why not
    home: tempfile.TemporaryDirectory | None = None  # without a box: the folder that it works in
    started: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Boxed:
        return self

    def __exit__(self, *error) -> None:
        self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.status >= 0:
            os.close(self.status)
            self.status = -1
        if self.home is not None:
            self.home.cleanup()

    def failure(self) -> str:
        """Why the box did not come to be; "" where the program started."""
        os.set_blocking(self.status, False)
        try:
            text = os.read(self.status, 4096).decode(errors="replace")
        except BlockingIOError:
            return "it did not start in time"
        return "" if text == "ready" else text.removeprefix("failed: ") or "it ended before the program began"


def start(
    program: Sequence[str],
    *,
    how: How,
    limits: Limits,
    files: Mapping[str, str] | None = None,
    extra_visible: Sequence[str] = (),
    extra_environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
) -> Boxed:
    """Start a program (its first word an absolute path) in a box whose folder holds `files`."""
    home = tempfile.TemporaryDirectory(prefix="offon-", ignore_cleanup_errors=True) if how == "none" else None
    visible = [*visible_paths(), *extra_visible]
    ours, theirs = os.pipe()
    orders = {
        "how": how,
        "parent": os.getpid(),
        "status": theirs,
        "home": home.name if home else confine.HOME,
        "visible": visible,
        "user": FIRST_USER + random.SystemRandom().randrange(USERS),
        "limits": limits.resources(),
        "disk_bytes": limits.disk_bytes,
        "files": dict(files or {}),
        "program": list(program),
        "environment": environment(home.name if home else confine.HOME) | dict(extra_environment or {}),
    }
    orders_fd = os.memfd_create("orders")
    try:
        os.write(orders_fd, json.dumps(orders).encode())
        launcher = [sys.executable, "-I", "-S", "-c", launcher_source(), str(orders_fd)]
        process = subprocess.Popen(
            [*bubblewrap(visible, limits.disk_bytes), *launcher] if how == "bubblewrap" else launcher,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={},
            cwd="/",
            pass_fds=[orders_fd, theirs, *pass_fds],
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
        os.close(orders_fd)
    return Boxed(process, ours, home)


@lru_cache(maxsize=1)
def launcher_source() -> str:
    return Path(confine.__file__).read_text()


def bubblewrap(visible: Sequence[str], disk_bytes: int) -> list[str]:
    """The command that puts what follows into a box of bubblewrap's."""
    words = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if os.geteuid() == 0:  # the launcher becomes a user that nobody is: limits of processes do not hold for root
        words += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--cap-add", "CAP_SETUID"]
        words += ["--cap-add", "CAP_SETGID"]
    else:
        words += ["--unshare-all"]
    parents = {str(parent) for path in (*visible, *confine.DEVICES) for parent in Path(path).parents} - {"/"}
    for path in sorted(parents - set(visible), key=len):
        words += ["--perms", "0755", "--dir", path]
    for path in visible:
        words += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for path in confine.DEVICES:
        words += ["--dev-bind", path, path]
    words += ["--perms", "0777", "--size", str(disk_bytes), "--tmpfs", confine.HOME]
    words += [] if "/tmp" in parents else ["--symlink", confine.HOME, "/tmp"]
    return [*words, "--remount-ro", "/", "--chdir", confine.HOME, "--"]


@dataclass(frozen=True)
class Ended:
    """How a program ended: what it wrote, its exit status, and what it was killed for, if it was."""

    output: bytes = b""
    errors: bytes = b""
    status: int = 0
    killed: str = ""
    failure: str = ""  # why the box did not come to be; then nothing ran


def run(program: Sequence[str], *, how: How, limits: Limits, stdin: bytes = b"", **options) -> Ended:
    """Run a program in a box to its end, or until a limit kills it."""
    given = os.memfd_create("stdin")
    try:
        with open(given, "wb", closefd=False) as stream:
            stream.write(stdin)
        os.lseek(given, 0, os.SEEK_SET)
        boxed = start(
            program, how=how, limits=limits, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )
    finally:
        os.close(given)
    with boxed:
        output, errors, killed = drain(boxed, limits)
        status = 0 if killed else boxed.process.wait()
        failure = boxed.failure()
    return Ended(output, errors, status, killed or limit_of(status, limits), failure)


def drain(boxed: Boxed, limits: Limits) -> tuple[bytes, bytes, str]:
    """Both streams to their end, and what the program is to be killed for."""
    streams = {boxed.process.stdout: bytearray(), boxed.process.stderr: bytearray()}
    deadline = boxed.started + limits.wall_s
    killed = ""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and not killed:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                streams[key.fileobj] += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
                elif len(streams[key.fileobj]) > limits.output_bytes:
                    killed = f"it wrote more than {limits.output_bytes} bytes"
            if time.monotonic() > deadline:
                killed = f"over {limits.wall_s:g} s"
    if not killed:
        try:
            boxed.process.wait(max(0.01, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed = f"over {limits.wall_s:g} s"
    output, errors = (bytes(text[: limits.output_bytes]) for text in streams.values())
    return output, errors, killed


def limit_of(status: int, limits: Limits) -> str:
    """The limit whose signal ended a program, if one did."""
    number = -status if status < 0 else status - 128
    return {
        signal.SIGXCPU: f"over {limits.cpu_s:g} s of computing",
        signal.SIGXFSZ: f"a file over {limits.file_bytes} bytes",
    }.get(number, "")


# --- which way works here ---

ALLOWED = "OFFON_ALLOW_UNSANDBOXED"  # the environment's word for --allow-unsandboxed
LOOK = """
import json, os, sys
def seen(path):
    try:
        return bool(open(path).read(1))
    except OSError:
        return False
print(json.dumps([os.getpid(), seen(sys.argv[1]), sorted(os.environ), os.getuid()]))
"""


@lru_cache(maxsize=1)
def tried() -> dict[How, str]:
    """Each way, and why it does not work here; "" where it does."""
    return {"bubblewrap": why_not("bubblewrap"), "namespaces": why_not("namespaces")}


def why_not(how: How) -> str:
    if sys.platform != "linux":
        return f"not on {sys.platform}"
    if how == "bubblewrap" and not shutil.which("bwrap"):
        return "bwrap is not installed"
    with tempfile.NamedTemporaryFile("w", prefix="offon-outside-") as secret:
        secret.write("outside")
        secret.flush()
        os.chmod(secret.name, 0o644)
        ended = run(
            [sys.executable, "-I", "-S", "-c", LOOK, secret.name], how=how, limits=Limits(wall_s=LAUNCH_LIMIT_S)
        )
    try:
        pid, seen, names, user = json.loads(ended.output)
    except ValueError:
        last_words = ended.errors.decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join(filter(None, [ended.failure, *last_words]))[:200] or "its box gives no answer"
    if seen or pid > 9 or user == 0 or set(names) - {*environment(""), "LC_CTYPE", "PWD"}:
        return f"its box leaks: process {pid}, user {user}, environment {names}, files outside {seen}"
    return ""


def best_way(*, allow_unsandboxed: bool = False) -> How:
    """The way to run code here; a ConfigError where there is none and it may not run without a box."""
    for how, problem in tried().items():
        if not problem:
            return how
    if allow_unsandboxed or os.environ.get(ALLOWED):
        return "none"
    raise ConfigError(
        "model-written code cannot be contained on this machine",
        where="verifier: unit_tests",
        why="; ".join(f"{how}: {problem}" for how, problem in tried().items()),
        fix="install bubblewrap or allow user namespaces; or, on a machine where nothing can be lost, "
        "allow_unsandboxed: true in the task, or --allow-unsandboxed",
    )
