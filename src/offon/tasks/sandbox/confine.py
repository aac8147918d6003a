"""The launcher of a box: shut the door, then become the program.

Its source is the program text of a fresh interpreter (`python -I -S -c`), so it uses the standard library only. It
reads its orders as JSON from a descriptor, and writes "ready" or why it failed to another that the program never has.

Layers, outermost first: namespaces of its own for users, mounts, processes, network and IPC (bubblewrap's or ours); a
root that holds what was asked for, read-only, and one writable tmpfs; Landlock on that root; limits (`setrlimit`); no
new privileges; a seccomp filter against what none of the rest needs (sockets, ptrace, mounts, further namespaces, ...).
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys

HOME = "/box"  # the one writable folder
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
INSIDE_ID = 65534  # user and group inside a user namespace

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    1 << 30,
)
ANY_NAMESPACE = 0x7E020080
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 0x1000, 0x4000, 0x40000, 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, AT_RECURSIVE = 1, 2, 4, 0x8000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_RULE, LANDLOCK_RESTRICT = 442, 444, 445, 446  # on every architecture
LANDLOCK_READ = 0b1101  # execute, read a file, read a folder (linux/landlock.h)
LANDLOCK_LIST = 0b1000
LANDLOCK_FILE = 1 | 2 | 4 | 1 << 14 | 1 << 15  # rights that a rule on a file may name

# arch/*/include: what ordinary programs do not call, and what widens the kernel's surface
COMMON = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}
DENIED = {
    "x86_64": {
        "socket": 41,
        "ptrace": 101,
        "syslog": 103,
        "pivot_root": 155,
        "chroot": 161,
        "acct": 163,
        "settimeofday": 164,
        "mount": 165,
        "umount2": 166,
        "swapon": 167,
        "swapoff": 168,
        "reboot": 169,
        "init_module": 175,
        "delete_module": 176,
        "quotactl": 179,
        "clock_settime": 227,
        "kexec_load": 246,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "unshare": 272,
        "perf_event_open": 298,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "finit_module": 313,
        "kexec_file_load": 320,
        "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "chroot": 51,
        "quotactl": 60,
        "acct": 89,
        "unshare": 97,
        "kexec_load": 104,
        "init_module": 105,
        "delete_module": 106,
        "clock_settime": 112,
        "syslog": 116,
        "ptrace": 117,
        "reboot": 142,
        "settimeofday": 170,
        "socket": 198,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "swapon": 224,
        "swapoff": 225,
        "perf_event_open": 241,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "finit_module": 273,
        "bpf": 280,
        "userfaultfd": 282,
        "kexec_file_load": 294,
    },
}
ARCHITECTURES = {"x86_64": (0xC000003E, 56), "aarch64": (0xC00000B7, 220)}  # (audit number, clone)
CLONE3 = 435

libc = ctypes.CDLL(None, use_errno=True)


def checked(what: str, result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def call(what: str, number: int, *arguments: int) -> int:
    return checked(what, libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))


def prctl(what: str, option: int, *arguments: int) -> None:
    values = [*arguments, 0, 0, 0, 0][:4]
    checked(what, libc.prctl(option, *map(ctypes.c_ulong, values)))


# --- namespaces and the root ---


def enter_namespaces(orders: dict) -> None:
    """Go on as a process of namespaces of its own; whoever waits outside passes its end on.

    The first process of the new namespace only waits: when it ends the kernel ends the rest, a daemon too. Root needs
    no user namespace, and becomes a user that nobody is, for whom limits of processes hold; others become nobody.
    """
    privileged = os.geteuid() == 0
    user, group = os.geteuid(), os.getegid()
    flags = NEW_MOUNTS | NEW_PIDS | NEW_NET | NEW_IPC | NEW_UTS | (0 if privileged else NEW_USER)
    checked("unshare", libc.unshare(flags))
    if not privileged:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{INSIDE_ID} {user} 1")
        write("/proc/self/gid_map", f"{INSIDE_ID} {group} 1")
    wait_for_child()
    build_root(orders["visible"], orders["disk_bytes"])
    if privileged:
        become(orders["user"])
    prctl("die with the parent", PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    wait_for_child()


def become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def wait_for_child() -> None:
    """Fork; the parent holds no descriptor, waits for the child and ends as it did; the child returns."""
    child = os.fork()
    if child:
        os.closerange(0, 1 << 20)
        while True:
            pid, status = os.wait()
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(128 - code if code < 0 else code)


def write(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    texts = [text.encode() if text else None for text in (source, target, kind)]
    checked(f"mount {target}", libc.mount(*texts, ctypes.c_ulong(flags), options.encode() or None))


def restrict_mount(path: str, attributes: int, *, recursive: bool = True) -> None:
    values = struct.pack("QQQQ", attributes, 0, 0, 0)
    buffer = ctypes.create_string_buffer(values, len(values))
    flags = AT_RECURSIVE if recursive else 0
    path_buffer = ctypes.create_string_buffer(path.encode())
    call(
        f"mount_setattr {path}", MOUNT_SETATTR, -100, ctypes.addressof(path_buffer), flags, ctypes.addressof(buffer), 32
    )


def build_root(visible: list[str], disk_bytes: int) -> None:
    """A root of its own: what is visible, read-only, four devices, and an empty folder to work in."""
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/outside")
    checked("pivot_root", libc.pivot_root(b"/tmp", b"/tmp/outside"))
    os.chdir("/")
    for path in visible:
        show(path)
    os.mkdir("/dev")
    for path in DEVICES:
        bind(path)
    os.mkdir(HOME)
    mount("tmpfs", HOME, "tmpfs", MS_NOSUID | MS_NODEV, f"size={disk_bytes},nr_inodes=4096,mode=777")
    if not os.path.lexists("/tmp"):  # it is there where something of it is visible
        os.symlink(HOME, "/tmp")
    checked("umount", libc.umount2(b"/outside", MNT_DETACH))
    os.rmdir("/outside")
    restrict_mount("/", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)


def show(path: str) -> None:
    outside = "/outside" + path
    if os.path.islink(outside):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.lexists(path):
            os.symlink(os.readlink(outside), path)
    elif os.path.lexists(outside):
        bind(path)
        restrict_mount(path, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)


def bind(path: str) -> None:
    outside = "/outside" + path
    if os.path.isdir(outside):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    mount(outside, path, "", MS_BIND | MS_REC)


# --- Landlock, limits, seccomp ---


def landlock(visible: list[str], *, needed: bool) -> None:
    """Read what is visible, write below HOME, connect to nothing, signal nobody outside. Skipped where the kernel has
    no Landlock and the root is already of our own making."""
    version = libc.syscall(ctypes.c_long(LANDLOCK_CREATE), None, ctypes.c_long(0), ctypes.c_long(1))
    if version < 1:
        if needed:
            raise OSError("the kernel has no Landlock")
        return
    files = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):  # refer, truncate, ioctl of a device
        files |= 1 << bit if version >= since else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = struct.pack("QQQ", files, 3, 3)[:size]  # no TCP from version 4, no signals and abstract sockets from 6
    buffer = ctypes.create_string_buffer(rules, size)
    ruleset = call("landlock", LANDLOCK_CREATE, ctypes.addressof(buffer), size, 0)
    # folders may be listed anywhere: the root holds nothing else
    for path, rights in [
        ("/", LANDLOCK_LIST),
        *((path, LANDLOCK_READ) for path in visible),
        *((d, files) for d in DEVICES),
        (HOME, files),
    ]:
        if os.path.exists(path):
            allow(ruleset, path, rights & files if os.path.isdir(path) else rights & files & LANDLOCK_FILE)
    call("landlock", LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, descriptor)
    buffer = ctypes.create_string_buffer(rule, len(rule))
    call(f"landlock {path}", LANDLOCK_RULE, ruleset, 1, ctypes.addressof(buffer), 0)
    os.close(descriptor)


def limit(limits: dict) -> None:
    for name, value in {"CORE": 0, **limits}.items():
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value + (name == "CPU")))  # SIGXCPU first, which says what it was


def seccomp() -> None:
    """EPERM for what is denied, for clone with a namespace, and for x86's second table; ENOSYS for clone3, whose flags
    a filter cannot read, so that the C library takes clone."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"no seccomp filter for {machine}")
    audit, clone = ARCHITECTURES[machine]
    load, equal, above, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse, absent, permit, kill = 0x50001, 0x50026, 0x7FFF0000, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":
        program += [(above, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for number in {**COMMON, **DENIED[machine]}.values():
        program += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    program += [(equal, 0, 1, CLONE3), (give, 0, 0, absent)]
    program += [(equal, 0, 3, clone), (load, 0, 0, 16), (bits, 0, 1, ANY_NAMESPACE), (give, 0, 0, refuse)]
    program += [(give, 0, 0, permit)]
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    steps = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(steps)))
    prctl("seccomp", PR_SET_SECCOMP, 2, ctypes.addressof(header))


def main(orders_fd: int) -> None:
    with open(orders_fd, "rb") as stream:
        stream.seek(0)
        orders = json.loads(stream.read())
    os.set_inheritable(orders["status"], False)
    try:
        if orders["how"] != "bubblewrap":
            prctl("die with the parent", PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != orders["parent"]:
                os._exit(1)
        if orders["how"] == "namespaces":
            enter_namespaces(orders)
        elif orders["how"] == "bubblewrap" and os.geteuid() == 0:
            become(orders["user"])
        os.chdir(orders["home"])
        for name, text in orders["files"].items():
            write(name, text)
        limit(orders["limits"])
        prctl("no new privileges", PR_SET_NO_NEW_PRIVS, 1)
        if orders["how"] != "none":
            landlock(orders["visible"], needed=False)
            seccomp()
        os.write(orders["status"], b"ready")
        os.execve(orders["program"][0], orders["program"], orders["environment"])
    except BaseException as error:
        os.write(orders["status"], f"failed: {error}".encode())
        os._exit(125)


if __name__ == "__main__":
    main(int(sys.argv[1]))
