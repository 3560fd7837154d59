"""What every test needs before it starts."""

from __future__ import annotations

import os

import max.driver
import max.engine  # noqa: F401

# Loading MAX sets these for child processes, behind Python's back: a child Python then
# runs outside the virtual environment.  MAX sets them once, so this undoes it.
for _name in ("PYTHONEXECUTABLE", "PYTHONPATH"):
    if _name in os.environ:
        os.putenv(_name, os.environ[_name])
    else:
        os.unsetenv(_name)
