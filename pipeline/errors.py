"""Errors a user sees: one sentence that says what, where, which value and what to do, and the exit code that goes with
it.
"""

from __future__ import annotations

import errno

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # an OSError that is nobody's fault but the disk's


class ManymodalError(Exception):
    """Base of all errors that are reported as one sentence. exit_code: what the command line returns."""

    exit_code = 1


class Incomplete(ManymodalError):
    """The run ended without everything it was asked for; the same command resumes."""

    exit_code = 1


class ConfigError(ManymodalError):
    """The command, the configuration or the input named in it cannot be used as it stands."""

    exit_code = 2


class DamageError(ManymodalError):
    """Stored bytes are not what their commit says."""

    exit_code = 3


class StorageError(ManymodalError):
    """The storage cannot be reached, is full, or refuses to be written."""

    exit_code = 4
