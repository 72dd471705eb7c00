#!/usr/bin/env python3
"""filter.py NAME COMMAND…: runs COMMAND under a filter of system calls (seccomp(2)).

docker      what Docker's profile refuses to a container without further rights, as far as a process master might ask
old-docker  besides, what a runtime of 2020 had never heard of: refused with EPERM, not with ENOSYS
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# The numbers from 424 on are the same everywhere.
X86_64 = dict(ptrace=101, mount=165, umount2=166, pivot_root=155, unshare=272, setns=308, kcmp=312, process_vm_readv=310,
              process_vm_writev=311, bpf=321, perf_event_open=298, add_key=248, keyctl=250)
AARCH64 = dict(ptrace=117, mount=40, umount2=39, pivot_root=41, unshare=97, setns=268, kcmp=272, process_vm_readv=270,
               process_vm_writev=271, bpf=280, perf_event_open=241, add_key=217, keyctl=219)
COMMON = dict(io_uring_setup=425, pidfd_getfd=438)
CLONE3 = 435
LATER = dict(pidfd_send_signal=424, pidfd_open=434, close_range=436, openat2=437, faccessat2=439)

MACHINES = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06


def step(code, value, then=0, otherwise=0):
    return struct.pack("HBBI", code, then, otherwise, value)


def program(name):
    arch, numbers = MACHINES[platform.machine()]
    refused = {number: errno.EPERM for number in [*numbers.values(), *COMMON.values()]}
    refused[CLONE3] = errno.ENOSYS
    if name == "old-docker":
        # Not clone3, without which no thread of a glibc of 2021 or later begins at all.
        refused.update({number: errno.EPERM for number in LATER.values()})
    # Of struct seccomp_data: nr at 0, arch at 4.
    steps = [step(LOAD, 4), step(EQUAL, arch, 1), step(RETURN, KILL), step(LOAD, 0)]
    for number, error in refused.items():
        steps += [step(EQUAL, number, 0, 1), step(RETURN, REFUSE | error)]
    return b"".join([*steps, step(RETURN, ALLOW)])


def main():
    text = program(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(text, len(text))
    # struct sock_fprog; PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP with SECCOMP_MODE_FILTER.
    fprog = struct.pack("HxxxxxxQ", len(text) // 8, ctypes.addressof(steps))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(fprog), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[2], sys.argv[2:])


main()
