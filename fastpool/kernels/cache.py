"""Compiled kernels on disk.

Numba's own cache refuses to import where it cannot write (numba#5566), does not see changes in
callees in other files (numba#1833) and keeps an index that processes race for (numba#4807, #10128).
Here every compiled signature is one file, named by all that it depends on, with a digest of its
content, and moved into place in one step: there is no index, a damaged file is as good as none, and
a directory that cannot be written only means that kernels are compiled anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

_SOURCES = Path(__file__).parent
_DIGEST = hashlib.sha256().digest_size


def _candidates() -> Iterator[Path]:
    here = hashlib.sha256(str(_SOURCES).encode()).hexdigest()[:16]
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / f"fastpool-{here}"
    else:
        yield _SOURCES / "__pycache__"
        with contextlib.suppress(RuntimeError):  # no home directory
            yield Path(AppDirs("fastpool", False).user_cache_dir) / here


@functools.cache
def cache_directory() -> Path | None:
    """Return the directory of the compiled kernels, or None where none can be written.

    It is ``$NUMBA_CACHE_DIR`` where that is set, else the package's own ``__pycache__``, else the
    user's cache directory.
    """
    for directory in _candidates():
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=directory).close()
            return directory
    return None


@functools.cache
def _stamp() -> str:
    """What every kernel depends on: the source of all of them, Python, Numba and LLVM."""
    versions = (sys.version, numba.__version__, llvmlite.__version__)
    digest = hashlib.sha256(repr(versions).encode())
    for path in sorted(_SOURCES.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class KernelCache(_Cache):
    """The part of Numba's cache interface that a dispatcher calls, for one kernel."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def cache_path(self) -> str | None:
        """The directory, for `Dispatcher.stats`."""
        directory = cache_directory()
        return None if directory is None else str(directory)

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        directory = cache_directory()
        if directory is None:
            return None
        target = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return directory / f"{self._name}-{target}-{_stamp()}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled for this signature, or None."""
        rtsys.initialize(target_context)  # not all that a compiler needs: half a second
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = path.read_bytes()
            data = content[_DIGEST:]
            if hashlib.sha256(data).digest() != content[:_DIGEST]:
                return None
            result = CompileResult._rebuild(target_context, *pickle.loads(data))
            # A process that has imported fastpool twice writes types that are of no module.
            return result if result.signature.args == tuple(sig) else None
        except Exception:  # whatever a file of unknown origin raises: compile instead
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if the directory takes it, in place of what older sources made."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:  # addresses of this process
            return
        content = dumps(data._reduce())
        with contextlib.suppress(OSError):
            handle, temporary = tempfile.mkstemp(".tmp", path.name, path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
            for old in path.parent.glob(f"{path.name.rpartition('-')[0]}-*.nbc"):
                if old != path:
                    old.unlink(missing_ok=True)

    def enable(self) -> None:
        """Do nothing: it is on."""

    def disable(self) -> None:
        """Do nothing: it is on."""

    def flush(self) -> None:
        """Do nothing: files are replaced one by one."""
