#!/usr/bin/env python3
"""What a write to a segment costs, with and without leaving the bytes in the page cache.

page_cache.py FILE [MIB [WRITE_BYTES]]: writes MIB to FILE by writes of WRITE_BYTES, three times each way in turn,
and tells MB/s and CPU seconds per GB. Needs Linux 6.16 and a file system that knows RWF_DONTCACHE.
"""

import os
import sys
import time

RWF_DONTCACHE = 0x80


def measure(path: str, total: int, size: int, flags: int) -> str:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(file, 0, total)
        data = os.urandom(size)
        before, began = os.times(), time.monotonic()
        for at in range(0, total - size, size):
            os.pwritev(file, [data], at, flags)
        after, took = os.times(), time.monotonic() - began
    finally:
        os.close(file)
        os.unlink(path)
    cpu = after.user + after.system - before.user - before.system
    return f"{total / took / 1e6:6.0f} MB/s {cpu / total * 1e9:5.2f} CPU-s per GB"


def main() -> None:
    path = sys.argv[1]
    total = int(sys.argv[2] if len(sys.argv) > 2 else 1024) << 20
    size = int(sys.argv[3] if len(sys.argv) > 3 else 128 * 1024)
    for _ in range(3):
        print("kept   ", measure(path, total, size, 0))
        print("dropped", measure(path, total, size, RWF_DONTCACHE))


if __name__ == "__main__":
    main()
