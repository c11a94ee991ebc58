"""Numbers in memory that several threads read and write: 64 bits each, at an address, one after the other."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from llvmlite import ir
from numba import types
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
def give_way(typingctx: Any, function: types.Integer) -> Any:
    """Let other threads run on this core, by the system's function for that, at an address: see `GIVE_WAY`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(builder.inttoptr(args[0], ir.FunctionType(ir.IntType(32), []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


_system = ctypes.WinDLL("kernel32").SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
GIVE_WAY = ctypes.cast(_system, ctypes.c_void_p).value
