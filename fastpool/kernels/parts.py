"""Compile kernels, and the functions that they are made of no further than the kernel needs them.

Numba makes machine code of every function that it compiles, after it has optimised it with all that it calls. Of
a function that is never called but from kernels, and inlined there, nobody runs that. And it optimises three times:
each function, then all of them together a little, for objects that are counted, then again. Here that is done once.

Of Numba's passes over a function those are left out that look for what no kernel has: generators, closures, context
managers, lists, functions that are inlined before they are typed, and expressions of whole arrays. Those before types
are inferred run once for all dtypes, and between passes nothing is checked or analysed anew.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from numba.core import typed_passes, types, untyped_passes
from numba.core.analysis import dead_branch_prune
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.ir_utils import build_definitions
from numba.core.lowering import Lower
from numba.core.ssa import reconstruct_ssa

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
        if isinstance(function, types.Dispatcher):  # a part is compiled for all values of an argument, once
            args = tuple(map(types.unliteral, args))
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


class NativeLowering(typed_passes.NativeLowering):
    """Numba's, that way."""

    @property
    def lowering_class(self) -> Any:
        """Return what lowers a function."""
        return _Lower


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


def _prune(state: Any) -> None:
    """Leave out what is for arguments that are None, or that are not."""
    dead_branch_prune(state.func_ir, state.args)


def _reconstruct_ssa(state: Any) -> None:
    """Give every assignment a variable of its own."""
    state.func_ir = reconstruct_ssa(state.func_ir)
    state.func_ir._definitions = build_definitions(state.func_ir.blocks)


UNTYPED = (
    untyped_passes.TranslateByteCode().run_pass,
    untyped_passes.IRProcessing().run_pass,
    untyped_passes.RewriteSemanticConstants().run_pass,
    _prune,
    untyped_passes.GenericRewrites().run_pass,
    _reconstruct_ssa,
)


def _strip_phis(state: Any) -> None:
    """Make of the choices between variables, where branches meet, assignments in the branches."""
    state.func_ir = typed_passes.PreLowerStripPhis()._strip_phi_nodes(state.func_ir)
    state.func_ir._definitions = build_definitions(state.func_ir.blocks)


TYPED = (
    TypeInference().run_pass,
    _strip_phis,
    typed_passes.IRLegalization().run_pass,
    typed_passes.AnnotateTypes().run_pass,
    NativeLowering().run_pass,
    typed_passes.NoPythonBackend().run_pass,
)
_untyped: dict[Any, Any] = {}


def _kind(arg: types.Type) -> Any:
    """Return what of an argument's type the passes ask for that run before types are inferred."""
    if isinstance(arg, (types.NoneType, types.Omitted, types.Literal)):
        return arg
    return type(arg), getattr(arg, "ndim", None), getattr(arg, "count", None)


class _Passes:
    """Stands for Numba's manager of passes."""

    pipeline_name = "kernel"
    exec_times: ClassVar[dict[str, Any]] = {}

    def run(self, state: Any) -> None:
        """Compile a function."""
        key = state.func_id.func, tuple(map(_kind, state.args))
        if key not in _untyped:
            for step in UNTYPED:
                step(state)
            _untyped[key] = state.func_ir
        state.func_ir = _untyped[key].copy()
        state.func_ir.func_id = state.func_id
        for step in TYPED:
            step(state)


class _Codegen:
    """Stands for the code generator of a part, of which no machine code is made."""

    def set_env(self, name: str, env: Any) -> None:
        """Do nothing: there is no memory for an address."""


class _Whole(JITCodeLibrary):
    """The code of a kernel: all parts are optimised together, once."""

    def add_linking_library(self, library: Any) -> None:
        """Link another one in when this one is finished, and what that one would link in."""
        library._ensure_finalized()
        self._reload_init.update(library._reload_init)
        parts = library._linking_libraries if isinstance(library, _Part) else []
        # What calls comes before what is called: of a module, LLVM takes what it knows to be called.
        self._linking_libraries = [*dict.fromkeys([*self._linking_libraries, library, *parts])]

    def add_llvm_module(self, ll_module: Any) -> None:
        """Take a module as it is."""
        self._final_module.link_in(ll_module)

    def finalize(self) -> None:
        """Link, optimise, and make machine code."""
        for library in self._linking_libraries:
            alone = isinstance(library, _Part)
            linked = library._final_module if alone else library._get_module_for_linking()
            self._final_module.link_in(linked, preserve=True)
        self._linking_libraries = []
        super().finalize()

    def _optimize_final_module(self) -> None:
        manager, builder = self._codegen._module_pass_manager()
        manager.run(self._final_module, builder)


class _Part(_Whole):
    """The LLVM code of a function, for others to link in."""

    codegen = _Codegen()

    def finalize(self) -> None:
        """Neither optimise nor make machine code."""
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
        return [_Passes()]


class PartCompiler(KernelCompiler):
    """That of a part."""

    library_class = _Part
