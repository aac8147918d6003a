"""Hostile programs in a box, on every way to make one that works on this machine.

An attack prints what it got; the box's user must see nothing of it, and nothing outside may have changed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

import offon
from offon.tasks.sandbox import box
from offon.tasks.sandbox.box import Limits, run

WAYS = [how for how, problem in box.tried().items() if not problem]
LIMITS = Limits(wall_s=30, cpu_s=10, memory_bytes=512 << 20)

pytestmark = [
    pytest.mark.fault("F44"),
    pytest.mark.skipif(not WAYS, reason=f"nothing contains code here: {box.tried()}"),
]


@pytest.fixture(params=WAYS or ["none"])
def how(request):
    return request.param


def attack(how: str, source: str, limits: Limits = LIMITS, **options) -> box.Ended:
    ended = run([sys.executable, "-I", "-S", "-c", textwrap.dedent(source)], how=how, limits=limits, **options)
    assert ended.failure == ""
    return ended


@pytest.mark.fault("F53")
def test_secrets_of_the_environment_are_not_there(how, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary-in-the-environment")
    ended = attack(
        how,
        """
        import os
        print(dict(os.environ))
        for pid in range(1, 50):
            try: print(open(f"/proc/{pid}/environ").read())
            except OSError: pass
        """,
    )
    assert b"PATH" in ended.output and b"canary" not in ended.output


def test_no_server_is_reached_on_this_machine_or_elsewhere(how):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0offon-{os.getpid()}")
        abstract.listen()
        source = f"""
            import socket
            for family, kind, place in [
                (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {server.getsockname()[1]})),
                (socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 53)),
                (socket.AF_INET, socket.SOCK_DGRAM, ("1.1.1.1", 53)),
                (socket.AF_UNIX, socket.SOCK_STREAM, "\\0offon-{os.getpid()}"),
            ]:
                try:
                    socket.socket(family, kind).connect(place)
                    print("reached", place)
                except OSError as error:
                    print("no", type(error).__name__)
            """
        assert attack(how, source).output.split() == [b"no", b"PermissionError"] * 4


def test_nothing_outside_is_read_or_written(how, tmp_path):
    answers = tmp_path / "answers.txt"
    answers.write_text("canary-answer")
    for path in (answers, tmp_path, tmp_path.parent):
        path.chmod(0o777)
    source = f"""
        import os
        for path in ({str(answers)!r}, "/etc/passwd", "/etc/shadow", {offon.__file__!r}, "/root/.bashrc"):
            try: print(open(path).read())
            except OSError: print("closed")
        for path in ({str(answers)!r}, {str(tmp_path / "new")!r}, "/usr/x", "/x", {sys.prefix!r} + "/x", "/dev/x"):
            try: print("wrote", open(path, "w"))
            except OSError: print("closed")
        open("mine", "w").write("kept")
        print(os.listdir("."), open("mine").read())
        """
    lines = attack(how, source).output.decode().splitlines()
    assert lines == ["closed"] * 11 + ["['mine'] kept"]
    assert answers.read_text() == "canary-answer" and not (tmp_path / "new").exists()


def test_memory_ends_in_a_memory_error(how):
    ended = attack(how, "try: print(len(bytearray(4 << 30)))\nexcept MemoryError: print('stopped')")
    assert ended.output == b"stopped\n"


def test_a_daemon_does_not_outlive_its_program(how):
    """It leaves its session and its process group, and both of its parents."""
    mark = f"daemon-{os.getpid()}-{how}"
    source = f"""
        import os, subprocess, sys, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600) #{mark}"])
            os._exit(0)
        time.sleep(0.3)
        """
    attack(how, source)
    deadline = time.monotonic() + 5
    while (alive := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []


@pytest.mark.slow
def test_a_program_that_hangs_is_killed_with_its_children(how):
    mark = f"hang-{os.getpid()}-{how}"
    source = f"import os, time\nos.fork()\nos.setsid() if os.getpid() > 3 else 0\ntime.sleep(600) #{mark}"
    ended = attack(how, source, Limits(wall_s=1.0))
    assert ended.killed == "over 1 s"
    deadline = time.monotonic() + 5
    while (alive := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []


def processes_with(mark: str) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if mark in line]


def test_a_flood_of_output_is_cut_and_killed(how):
    ended = attack(how, "while True: print('x' * 100_000)", Limits(wall_s=30, output_bytes=1 << 16))
    assert ended.killed == "it wrote more than 65536 bytes" and len(ended.output) == 1 << 16


@pytest.mark.slow
def test_computing_is_limited_by_its_own_clock(how):
    ended = attack(how, "while True: pass", Limits(wall_s=30, cpu_s=1))
    assert ended.killed == "over 1 s of computing"


def test_a_fork_bomb_stays_small(how):
    ended = attack(
        how,
        """
        import os, time
        children = 0
        try:
            while children < 200:
                if os.fork() == 0: time.sleep(60)
                children += 1
        except OSError:
            pass
        print(children)
        """,
        Limits(wall_s=30, processes=16),
    )
    assert 1 <= int(ended.output) <= 16


def test_neither_the_parent_nor_anyone_else_is_signalled(how):
    ended = attack(
        how,
        f"""
        import os, signal
        for pid in ({os.getpid()}, {os.getppid()}, os.getppid()):
            try: os.kill(pid, signal.SIGKILL)
            except OSError: pass
        print("alive")
        """,
    )
    assert ended.output in (b"alive\n", b"")  # its own box may have ended, never this process


def test_files_fill_neither_the_disk_nor_the_table_of_files(how):
    ended = attack(
        how,
        """
        written = 0
        try:
            for number in range(64):
                with open(str(number), "wb") as stream: written += stream.write(bytes(1 << 20))
        except OSError as error:
            print(type(error).__name__, written >> 20)
        try:
            held = [open("/dev/null") for _ in range(2000)]
        except OSError as error:
            print(error.strerror)
        """,
        Limits(disk_bytes=8 << 20, open_files=32),
    )
    assert ended.output.decode().splitlines() in (
        ["OSError 7", "Too many open files"],
        ["OSError 8", "Too many open files"],
    )


def test_the_kernel_is_asked_for_nothing_unusual(how):
    """New namespaces, mounts, tracing, and further privileges."""
    ended = attack(
        how,
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.unshare(0x10000000), libc.mount(b"tmpfs", b"/box", b"tmpfs", 0, None), libc.ptrace(0, 0, 0, 0))
        try: os.setuid(0); print("root")
        except OSError: print("no root")
        """,
    )
    assert ended.output.decode().split("\n")[:2] == ["-1 -1 -1", "no root"]


def test_a_limit_on_one_run_is_no_limit_on_the_next(how):
    assert attack(how, "while True: print('x' * 100_000)").killed
    assert attack(how, "import sys; print(sys.stdin.read()[::-1])", stdin=b"abc").output == b"cba\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become someone else")
def test_an_ordinary_user_has_a_box_too(tmp_path):
    """User namespaces, in place of root's: with the system's Python, which everyone may run."""
    python = "/usr/bin/python3"
    if not os.path.exists(python):
        pytest.skip("no system Python")
    confine = tmp_path / "confine.py"
    confine.write_text(box.launcher_source())
    program = """
import json, os, subprocess, sys
source = open(0).read()
read, write = os.pipe()
orders = os.memfd_create("orders")
look = "import os,socket\\nprint(os.getuid(), os.getpid(), sorted(os.listdir('/box')), os.path.exists('/home'))"
os.write(orders, json.dumps({"how": "namespaces", "parent": os.getpid(), "status": write, "home": "/box", "files": {},
    "visible": ["/usr", "/bin", "/lib", "/lib64"], "user": 0, "disk_bytes": 1 << 20, "environment": {},
    "limits": {"NPROC": 8, "AS": 1 << 30}, "program": [sys.executable, "-I", "-S", "-c", look]}).encode())
done = subprocess.run([sys.executable, "-I", "-S", "-c", source, str(orders)], pass_fds=[orders, write], stdout=-1)
print(os.read(read, 999).decode(), done.stdout.decode())
"""
    done = subprocess.run(
        [python, "-I", "-S", "-c", program],
        input=box.launcher_source(),
        capture_output=True,
        text=True,
        cwd="/",
        user=65534,
        group=65534,
        extra_groups=[],
        env={},
    )
    if "Operation not permitted" in done.stdout and "unshare" in done.stdout:
        pytest.skip("user namespaces are closed to ordinary users here")
    ready, user, pid, *rest = done.stdout.split()
    assert (ready, user, rest) == ("ready", "65534", ["[]", "False"]) and int(pid) < 5, done


def test_a_box_that_leaks_is_not_used(monkeypatch):
    """A way that runs programs plainly is found out: it reads a file that is outside."""
    monkeypatch.setattr(box, "run", lambda program, *, how, limits: run(program, how="none", limits=limits))
    assert "its box leaks" in box.why_not("namespaces")


def test_without_a_box_code_is_refused_unless_it_is_allowed(monkeypatch):
    monkeypatch.setattr(box, "tried", lambda: {"bubblewrap": "bwrap is not installed", "namespaces": "EPERM"})
    with pytest.raises(offon.errors.ConfigError, match="cannot be contained") as refused:
        box.best_way()
    assert "bwrap is not installed" in str(refused.value) and "allow_unsandboxed: true" in str(refused.value)
    assert box.best_way(allow_unsandboxed=True) == "none"
    monkeypatch.setenv(box.ALLOWED, "1")
    assert box.best_way() == "none"


def test_without_a_box_limits_and_the_short_environment_still_hold(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary")
    ended = run(
        [sys.executable, "-I", "-S", "-c", "import os, json; print(json.dumps([dict(os.environ), os.getcwd()]))"],
        how="none",
        limits=LIMITS,
    )
    environment, folder = json.loads(ended.output)
    assert "HF_TOKEN" not in environment and folder != os.getcwd() and not os.path.exists(folder)
