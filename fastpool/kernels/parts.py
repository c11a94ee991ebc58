"""Compile kernels, and the functions that they are made of no further than the kernel needs them.

Numba makes machine code of every function that it compiles, after it has optimised it with all that it calls. Of
a function that is never called but from kernels, and inlined there, nobody runs that. And it optimises three times:
each function, then all of them together a little, for objects that are counted, then again. Here that is done once.

Of Numba's passes over a function those are left out that look for what no kernel has: generators, closures, context
managers, lists, functions that are inlined before they are typed, and expressions of whole arrays.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba.core import typed_passes, types, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower

from fastpool.kernels import simd

#: Types that mean the same wherever they are used.
PLAIN = (types.Number, types.Boolean, types.Literal, types.CPointer, simd.Vector, simd.Tag)
_signatures: dict[Any, Any] = {}


class _Typing:
    """Numba's typing context, which asks once what an operation on numbers is, not in every line of every function."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
        """Return the signature."""
        others = isinstance(function, types.Type) and not isinstance(function, types.Function)
        if others or kws or not all(isinstance(arg, PLAIN) for arg in args):
            return self._context.resolve_function_type(function, args, kws)
        key = function, args
        if key not in _signatures:
            _signatures[key] = self._context.resolve_function_type(function, args, kws)
        return _signatures[key]


_sizes: dict[str, int] = {}
_counted: dict[types.Type, bool] = {}


def _size_of(data: Any, of_type: Any) -> int:
    """Return how many bytes a value has in memory."""
    name = str(of_type)
    if name not in _sizes:
        _sizes[name] = of_type.get_abi_size(data)
    return _sizes[name]


class _Lower(Lower):
    """Numba's way to LLVM's code, in less time.

    LLVM is asked for the size of a type once, not of every variable; and when a variable is not used any more, nothing
    is done unless references to it are counted. Machine code is the same.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context.get_abi_sizeof = partial(_size_of, self.context.target_data)  # this function's own context

    def counted(self, typ: types.Type) -> bool:
        """Return whether references to a value of this type, or to a part of it, are counted."""
        if typ not in _counted:
            _counted[typ] = self.context.data_model_manager[typ].contains_nrt_meminfo()
        return _counted[typ]

    def incref(self, typ: types.Type, value: Any) -> None:
        """Count one more reference."""
        if self.counted(typ):
            super().incref(typ, value)

    def decref(self, typ: types.Type, value: Any) -> None:
        """Count one less."""
        if self.counted(typ):
            super().decref(typ, value)

    def delvar(self, name: str) -> None:
        """Let go of a variable."""
        if self.counted(self.typeof(name)):
            super().delvar(name)


@register_pass(mutates_CFG=True, analysis_only=False)
class NativeLowering(typed_passes.NativeLowering):
    """Numba's, that way."""

    @property
    def lowering_class(self) -> Any:
        """Return what lowers a function."""
        return _Lower


@register_pass(mutates_CFG=True, analysis_only=False)
class TypeInference(typed_passes.NopythonTypeInference):
    """Numba's, in such a context."""

    def run_pass(self, state: Any) -> bool:
        """Find the types."""
        context = state.typingctx
        state.typingctx = _Typing(context)
        try:
            return super().run_pass(state)
        finally:
            state.typingctx = context


PASSES = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.RewriteSemanticConstants,
    untyped_passes.DeadBranchPrune,
    untyped_passes.GenericRewrites,
    untyped_passes.ReconstructSSA,
    TypeInference,
    typed_passes.PreLowerStripPhis,
    typed_passes.IRLegalization,
    typed_passes.AnnotateTypes,
    NativeLowering,
    typed_passes.NoPythonBackend,
)


class _Codegen:
    """Stands for the code generator of a part, of which no machine code is made."""

    def set_env(self, name: str, env: Any) -> None:
        """Do nothing: there is no memory for an address."""


class _Whole(JITCodeLibrary):
    """The code of a kernel: all parts are optimised together, once."""

    def add_llvm_module(self, ll_module: Any) -> None:
        """Take a module as it is."""
        self._final_module.link_in(ll_module)

    def _optimize_final_module(self) -> None:
        manager, builder = self._codegen._module_pass_manager()
        manager.run(self._final_module, builder)


class _Part(_Whole):
    """The LLVM code of a function and of what it calls, for others to link in."""

    codegen = _Codegen()

    def finalize(self) -> None:
        """Link what is called, and neither optimise nor make machine code."""
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage.name == "external":
                function.linkage = "linkonce_odr"  # so that it need not be copied for that
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: there is no machine code."""
        self._ensure_finalized()
        return 0


class KernelCompiler(CompilerBase):
    """Numba's compiler, with fewer passes."""

    library_class = _Whole

    def define_pipelines(self) -> list[Any]:
        """Return the passes, over a library of our own."""
        self.state.library = self.library_class(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        manager = PassManager("kernel")
        for step in PASSES:
            manager.add_pass(step, "")
        manager.finalize()
        return [manager]


class PartCompiler(KernelCompiler):
    """That of a part."""

    library_class = _Part
