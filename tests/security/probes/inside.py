"""Probes: the init, and what it may have brought along from the host."""

import ctypes
import os
from pathlib import Path

from tests.security.probes.probe import call, probe, refuse

PTRACE_SEIZE = 0x4206
INIT = 1


@probe("init", "dumpable")
def root_of_init() -> object:
    return os.listdir("/proc/1/root/")


@probe("init", "dumpable")
def descriptors_of_init() -> object:
    return [os.readlink(f"/proc/1/fd/{name}") for name in os.listdir("/proc/1/fd")]


@probe("init", "dumpable")
def environment_of_init() -> object:
    return Path("/proc/1/environ").read_bytes()


@probe("init", "dumpable")
def program_of_init() -> object:
    return Path("/proc/1/exe").read_bytes()[:4]


@probe("init", "dumpable userns")
def overwrite_the_program_of_init() -> object:
    """All sandboxes of a launcher run this one file."""
    try:
        return os.open("/proc/1/exe", os.O_WRONLY)
    except OSError as exc:
        if exc.strerror != "Text file busy":
            raise
        return "allowed, but that it runs"


def place_in_init() -> int:
    """An address that init can read."""
    return int(Path("/proc/1/maps").read_text().split("-")[0], 16)


@probe("init", "dumpable caps")
def memory_of_init() -> object:
    with open("/proc/1/mem", "rb", buffering=0) as memory:
        memory.seek(place_in_init())
        return memory.read(4)


@probe("init", "dumpable caps")
def write_memory_of_init() -> object:
    with open("/proc/1/mem", "r+b", buffering=0) as memory:
        return memory.name


@probe("init", "dumpable caps")
def read_init_from_afar() -> object:
    """By process_vm_readv."""
    # Where it cannot look it up, any address will do: the refusal comes first.
    try:
        address = place_in_init()
    except OSError:
        address = 4096
    buffer = ctypes.create_string_buffer(4)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 4)
    there = (ctypes.c_size_t * 2)(address, 4)
    call("process_vm_readv", INIT, here, 1, there, 1, 0)
    return buffer.raw


@probe("init", "dumpable caps")
def trace_init() -> object:
    return call("ptrace", PTRACE_SEIZE, INIT, None, None)


@probe("init", "dumpable caps")
def take_a_descriptor_of_init() -> object:
    """Its listening socket: whoever has it is asked in place of init."""
    return call("pidfd_getfd", call("pidfd_open", INIT, 0), 3, 0)


# ---------------------------------------------------------------- inherited


@probe("inherited", "descriptors")
def inherit_a_descriptor(descriptors: dict[str, str]) -> object:
    if not descriptors:
        raise refuse("none")
    return descriptors


@probe("inherited", "descriptors dumpable")
def descriptor_of_the_host_in_init(secret_path: str) -> object:
    links = [os.readlink(f"/proc/1/fd/{name}") for name in os.listdir("/proc/1/fd")]
    if not any(link.endswith(secret_path) for link in links):
        raise refuse(f"{links}")
    return links


@probe("inherited", "environment dumpable")
def variable_of_the_launcher(secret: str) -> object:
    """In the environment of any process that can be read, init above all."""
    read = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            read[folder.name] = (folder / "environ").read_bytes()
        except OSError as exc:
            read[folder.name] = str(exc).encode()
    if not any(secret.encode() in text for text in read.values()):
        raise refuse(f"not in {sorted(read)}")
    return sorted(read)
