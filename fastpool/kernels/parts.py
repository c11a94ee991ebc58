"""Compile the functions that kernels are made of no further than the kernel needs them.

Numba makes machine code of every function that it compiles, after it has optimised it with all that it calls. Of
a function that is never called but from kernels, and inlined there, nobody runs that: a third to a half of the
time of a first call went into it.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder


class _Codegen:
    """Stands for the code generator of a part, of which no machine code is made."""

    def set_env(self, name: str, env: Any) -> None:
        """Do nothing: there is no memory for an address."""


class _Part(JITCodeLibrary):
    """The LLVM code of a function and of what it calls, for others to link in."""

    codegen = _Codegen()

    def finalize(self) -> None:
        """Link what is called, and neither optimise nor make machine code."""
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: there is no machine code."""
        self._ensure_finalized()
        return 0


class PartCompiler(CompilerBase):
    """Numba's compiler, but for that."""

    def define_pipelines(self) -> list[Any]:
        """Return Numba's passes, over a library of our own."""
        state = self.state
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(state)]
