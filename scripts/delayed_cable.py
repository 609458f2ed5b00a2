#!/usr/bin/env python3
"""The network link of two_hosts.sh on kernels without netem: creates a TUN interface `cable` in
each of two network namespaces and forwards packets between them after a fixed delay, until killed.

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
MTU = 60000  # forwarding costs the same per packet, so use few large ones


def make_interface(namespace, number):
    name = f"cable{number}-{os.getpid() % 100000}"
    interface = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(interface, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", namespace, "name", "cable",
                    "mtu", str(MTU)], check=True)
    return interface


def carry(delay, a, b):
    other = {a: b, b: a}
    in_flight = collections.deque()  # (arrival time, destination, packet), in order
    while True:
        wait = max(0, in_flight[0][0] - time.monotonic()) if in_flight else None
        for interface in select.select([a, b], [], [], wait)[0]:
            arrival = time.monotonic() + delay
            in_flight.append((arrival, other[interface], os.read(interface, MTU)))
        while in_flight and in_flight[0][0] <= time.monotonic():
            _, interface, packet = in_flight.popleft()
            with contextlib.suppress(OSError):  # the other end is not up yet: drop the packet
                os.write(interface, packet)


if __name__ == "__main__":
    carry(float(sys.argv[1]), *(make_interface(namespace, number)
                                for number, namespace in enumerate(sys.argv[2:])))
