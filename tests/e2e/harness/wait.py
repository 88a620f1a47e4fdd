"""Waiting for a condition instead of for a time."""

import time

STEP_S = 0.05
#: Long enough for a busy machine; a test that works never waits for it.
LIMIT_S = 30.0


def eventually(what, condition, limit_s=LIMIT_S):
    """Returns the first true value of `condition()`; fails after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit_s:.0f} s in vain: {what}")
        time.sleep(STEP_S)
