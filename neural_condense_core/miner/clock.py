"""Whether this machine's clock can be trusted: requests are only fresh for seconds.

Design decisions

* Nobody is asked for the time: the kernel knows whether something keeps its clock in step.
* A clock that cannot be right stops the start; one that nobody keeps in step is a warning, as
  virtual machines often take their host's time.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

EARLIEST_S = 1_767_225_600.0
"""2026-01-01: nothing of this was there before."""

_UNSYNCHRONISED = 5  # TIME_ERROR in <sys/timex.h>
_TIMEX_BYTES = 512  # struct timex has 208


def kernel_state() -> int | None:
    """Return what ``adjtimex`` says of the clock; None where it says nothing."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError, TypeError):  # not Linux
        return None
    return None if state < 0 else state


def clock_fault(now_s: float | None = None) -> str | None:
    """Say why the clock cannot be right; None if it can.

    Parameters
    ----------
    now_s : seconds since 1970; None = the clock's
    """
    now_s = time.time() if now_s is None else now_s
    if now_s >= EARLIEST_S:
        return None
    shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now_s))
    return (
        f"the clock says {shown} UTC, which cannot be; set it, for example with: "
        "sudo timedatectl set-ntp true"
    )


def clock_warning(read_state: Callable[[], int | None] = kernel_state) -> str | None:
    """Say that nothing keeps the clock in step, as far as the kernel knows; else None.

    Parameters
    ----------
    read_state : what ``adjtimex`` says
    """
    if read_state() != _UNSYNCHRONISED:
        return None
    return (
        "nothing keeps this machine's clock in step, and requests whose times differ by more than "
        "seconds are refused; run: sudo timedatectl set-ntp true"
    )
