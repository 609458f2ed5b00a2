#!/usr/bin/env python3
"""The cable of two_hosts.sh where the kernel has no netem: carries packets between the interfaces `cable` (TUN) that it
makes in two network namespaces, each after a delay, until it is ended.

    scripts/delayed_cable.py SECONDS NAMESPACE NAMESPACE
"""
import collections
import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000  # linux/if_tun.h
MTU = 60000  # few large packets: a small one costs as much time here


def make_interface(namespace, number):
    name = f"cable{number}-{os.getpid() % 100000}"
    interface = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(interface, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", namespace, "name", "cable", "mtu", str(MTU)], check=True)
    return interface


def carry(delay, a, b):
    other = {a: b, b: a}
    on_the_way = collections.deque()  # (when it arrives, where, packet), in order
    while True:
        wait = max(0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        for interface in select.select([a, b], [], [], wait)[0]:
            on_the_way.append((time.monotonic() + delay, other[interface], os.read(interface, MTU)))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, interface, packet = on_the_way.popleft()
            with contextlib.suppress(OSError):  # the other end is not up (yet): the packet is lost
                os.write(interface, packet)


if __name__ == "__main__":
    carry(float(sys.argv[1]), *(make_interface(namespace, number) for number, namespace in enumerate(sys.argv[2:])))
