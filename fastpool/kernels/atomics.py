"""Numbers in memory that several threads read and write: 64 bits each, at an address, one after the other."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

INT = ir.IntType(64)
ORDER = "seq_cst"


def _place(builder: Any, address: Any, place: Any) -> Any:
    return builder.gep(builder.inttoptr(address, INT.as_pointer()), [place])


@intrinsic
def load(typingctx: Any, address: types.Integer, place: types.Integer) -> Any:
    """Return a number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(builder, *args), ORDER, 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx: Any, address: types.Integer, place: types.Integer, value: types.Integer) -> Any:
    """Set a number; return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("xchg", _place(builder, *args[:2]), args[2], ORDER)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def add(typingctx: Any, address: types.Integer, place: types.Integer, value: types.Integer) -> Any:
    """Add to a number; return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _place(builder, *args[:2]), args[2], ORDER)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def replace(
    typingctx: Any, address: types.Integer, place: types.Integer, before: types.Integer, value: types.Integer
) -> Any:
    """Set a number if it is as it was before; return whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = builder.cmpxchg(_place(builder, *args[:2]), args[2], args[3], ORDER, ORDER)
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Do nothing, for the good of a thread on the same core, where the CPU knows how."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if builder.module.triple.startswith(("x86_64", "i686")):
            of_type = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, of_type, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen
