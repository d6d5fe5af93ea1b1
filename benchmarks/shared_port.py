#!/usr/bin/env python3
"""How evenly the kernel spreads connections over processes that share a port: `python benchmarks/shared_port.py`.

Listens with several sockets on one port (SO_REUSEPORT), connects so many times, and counts what each socket got;
repeated. A process is off by 20 % if it has 20 % more or fewer connections than the mean.
"""

from __future__ import annotations

import argparse
import socket
import statistics

OFF = 0.2
BACKLOG = 4_096


def listeners(n: int) -> list[socket.socket]:
    """`n` sockets that share a port of the loopback address."""
    found: list[socket.socket] = []
    for _ in range(n):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", found[0].getsockname()[1] if found else 0))
        one.listen(BACKLOG)
        one.setblocking(False)  # noqa: FBT003 - the socket module has no name for it
        found.append(one)
    return found


def accepted(listener: socket.socket) -> int:
    """How many connections wait for this socket."""
    n = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return n
        n += 1


def worst_share(workers: int, connections: int) -> float:
    """How far the worst process is from the mean, as a share of the mean."""
    sharing = listeners(workers)
    clients = [socket.create_connection(sharing[0].getsockname()) for _ in range(connections)]
    mean = connections / workers
    worst = max(abs(accepted(listener) - mean) / mean for listener in sharing)
    for one in (*clients, *sharing):
        one.close()
    return worst


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    trials = parser.parse_args().trials
    print("| processes | connections | worst process, median | no process off by 20 % |\n| --- | --- | --- | --- |")
    for workers in (2, 4):
        for connections in (4, 8, 16, 32, 64, 128, 256):
            found = [worst_share(workers, connections) for _ in range(trials)]
            even = sum(share <= OFF for share in found) / trials
            print(f"| {workers} | {connections} | ± {statistics.median(found):.0%} | {even:.0%} of {trials} trials |")


if __name__ == "__main__":
    main()
