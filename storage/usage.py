"""What a stage costs: seconds, and the most memory it held at once, of the machine and of the accelerator."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
import time
from pathlib import Path


class Usage:
    """Counts from the moment it is made, or restarted."""

    def __init__(self) -> None:
        self._begin()

    def restart(self) -> None:
        """Count from now, what is garbage by now being freed first: that takes a third of a second where torch is loaded."""
        gc.collect()
        self._begin()

    def _begin(self) -> None:
        """What was freed goes back to the system first, or its second use would pass unseen."""
        _trim()
        self._allocated = 0
        device = _accelerator()
        if device is not None:
            device.reset_peak_memory_stats()
            self._allocated = int(device.memory_allocated())
        self._resident = _reset_peak()
        self._started = time.monotonic()

    def so_far(self) -> dict[str, float | int]:
        """`seconds`; `memory_bytes` and `device_bytes`, the peaks above what was held at the start; the latter is 0 without
        an accelerator.

        Where the peak cannot be reset, which takes Linux, `memory_bytes` is how far this process's own peak rose.
        """
        device = _accelerator()
        return {
            "seconds": round(time.monotonic() - self._started, 3),
            "memory_bytes": max(0, _peak() - self._resident),
            "device_bytes": 0 if device is None else int(device.max_memory_allocated()) - self._allocated,
        }


def _trim() -> None:
    """Have the C library return the memory it keeps for later, where it is one that can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> int:
    """Resident bytes now, the kernel's mark of the peak being set to them where it allows that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") or _peak()


def _peak() -> int:
    """Bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _status(name: str) -> int:
    """Bytes of an entry of the process's status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _accelerator():  # type: ignore[no-untyped-def]
    """torch's CUDA module where it is already in use; this file imports nothing heavy."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
