"""How artefacts are compressed: zstd frames (RFC 8878) that any `zstd` program can read."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Literal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Compression", "zstd"]

DEFAULT_LEVEL = 1
HIGHEST_LEVEL = 19
DEFAULT_THREADS = 1
"""While a tool or a server makes the bytes: they want the other processors."""
STAGED_THREADS = min(4, os.cpu_count() or 1)
"""For bytes that lie ready on disk: nobody else computes meanwhile."""
HIGHEST_THREADED_LEVEL = 6
"""Above it each thread wants a hundred megabytes, so the calling thread compresses alone."""

_WRITTEN = re.compile(r"zstd(?::([1-9]|1[0-9]))?")


@dataclass(frozen=True, slots=True)
class Compression:
    """Method, level and threads. `parse` reads what users write."""

    method: Literal["zstd", "none"] = "zstd"
    level: int = DEFAULT_LEVEL
    threads: int = DEFAULT_THREADS

    @classmethod
    def parse(cls, text: str) -> Compression:
        """Read `zstd`, `zstd:1` to `zstd:19` or `none`; raises `ValueError` for anything else."""
        if text == "none":
            return cls("none", 0, 0)
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise ValueError(f"compression is `zstd`, `zstd:1` to `zstd:{HIGHEST_LEVEL}` or `none`")
        return cls("zstd", int(match[1] or DEFAULT_LEVEL))

    @property
    def suffix(self) -> str:
        """What it adds to a file's name."""
        return ".zst" if self.method == "zstd" else ""

    def compressor(self, *, staged: bool = False) -> zstd.ZstdCompressor:
        """A compressor of one frame that ends in a checksum of its content; faster for bytes that lie `staged`."""
        threads = max(self.threads, STAGED_THREADS if staged else 0) if self.level <= HIGHEST_THREADED_LEVEL else 0
        parameter = zstd.CompressionParameter
        return zstd.ZstdCompressor(
            options={
                parameter.compression_level: self.level,
                parameter.checksum_flag: 1,
                parameter.nb_workers: threads,
            }
        )
