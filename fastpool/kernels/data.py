"""How compiled code is handed arrays: as Python's objects, of which it reads where their elements are.

Shapes and strides are in a table beside them. Numba's own way makes an object for each array that counts references
to it, and an array of other axes must be made first of one that has not four. Here neither is: it is the caller that
keeps the arrays, and knows what they are. And all code is handed the same, so that one loop can call any: see `call`.
"""

from __future__ import annotations

from functools import reduce
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

#: What the numbers of a call begin with: two that say which rows, and whether all arrays must be contiguous.
CALL = 3
#: Shape and strides of an array of four axes, which follow.
NUMBERS = 8
#: NumPy's flags.
CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400


class Numbers(types.Type):
    """The array of the numbers of a call, and the rows that these say."""


class Object(types.Type):
    """Python's object, as it is."""


class Tuple(Object):
    """A tuple of arrays of these dtypes; `types.none` is for None."""

    def __init__(self, dtypes: tuple[types.Type, ...], readonly: bool) -> None:
        self.dtypes, self.readonly = dtypes, readonly
        super().__init__(f"Tuple({dtypes}, {'readonly' if readonly else 'written'})")


NUMBERS_OF_CALL, OBJECT = Numbers("Numbers"), Object("Object")


@register_model(Numbers)
class _NumbersModel(models.StructModel):
    def __init__(self, dmm: Any, fe_type: Numbers) -> None:
        super().__init__(dmm, fe_type, [("start", types.int64), ("stop", types.int64), ("array", OBJECT)])


@register_model(Object)
@register_model(Tuple)
class _ObjectModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Object) -> None:
        super().__init__(dmm, fe_type, cgutils.voidptr_t)


def _field(builder: Any, thing: Any, kind: type, place: int, of_type: ir.Type) -> Any:
    """Read what an object has behind what all of its kind have, and so many fields of a pointer's size."""
    fields = builder.bitcast(builder.gep(thing, [ir.IntType(64)(kind.__basicsize__)]), cgutils.voidptr_t.as_pointer())
    return builder.load(builder.bitcast(builder.gep(fields, [ir.IntType(64)(place)]), of_type.as_pointer()))


def _address(builder: Any, array: Any, of_type: ir.Type) -> Any:
    """Read where an array's elements are: the first field that it adds to an object, by NumPy's binary interface."""
    return _field(builder, array, object, 0, of_type.as_pointer())


@unbox(Numbers)
def _unbox_numbers(typ: Numbers, array: Any, c: Any) -> NativeValue:
    numbers = cgutils.create_struct_proxy(typ)(c.context, c.builder)
    address = _address(c.builder, array, numbers.start.type)
    numbers.array = array
    numbers.start, numbers.stop = [c.builder.load(cgutils.gep_inbounds(c.builder, address, i)) for i in range(2)]
    return NativeValue(numbers._getvalue())


@unbox(Object)
@unbox(Tuple)
def _unbox_object(typ: Object, thing: Any, c: Any) -> NativeValue:
    return NativeValue(thing)


@intrinsic
def call(typingctx: Any, job: types.Integer, start: types.Integer, stop: types.Integer) -> Any:
    """Call a kernel for these rows: its machine code's address, and those of its four arguments, are at an address.

    Return 1 if it ran, 0 if it did not, and -1 if it raised an exception.
    """
    kinds = NUMBERS_OF_CALL, OBJECT, OBJECT, OBJECT

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        function, *addresses = [builder.load(cgutils.gep_inbounds(builder, at, i)) for i in range(1 + len(kinds))]
        numbers, *objects = [builder.inttoptr(address, cgutils.voidptr_t) for address in addresses]
        of_rows = cgutils.create_struct_proxy(NUMBERS_OF_CALL)(context, builder)
        of_rows.start, of_rows.stop = args[1:]
        of_rows.array = numbers
        to = builder.inttoptr(function, context.call_conv.get_function_type(types.boolean, kinds).as_pointer())
        given = [of_rows._getvalue(), *objects]
        status, ran = context.call_conv.call_function(builder, to, types.boolean, kinds, given)
        return builder.select(status.is_error, ir.IntType(64)(-1), builder.zext(ran, ir.IntType(64)))

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def views(typingctx: Any, numbers: Numbers, geometry: Object, reads: Tuple, writes: Tuple) -> Any:
    """Whether the arrays are as the call takes them; the two numbers that say which rows; the geometry; the arrays.

    These have four axes each; what is None stays None. A call of contiguous arrays takes none that is not aligned or,
    where it is written to, not writeable or not apart from one that is read: Python takes ten times as long to see.
    """
    from numba.np.arrayobj import make_array, populate_array  # imports much that only a compiler needs

    given = [(group, i, dtype) for group in (reads, writes) for i, dtype in enumerate(group.dtypes)]
    arrays: list[Any] = [
        dtype if dtype is types.none else types.Array(dtype, 4, "A", readonly=group.readonly)
        for group, _, dtype in given
    ]
    result = types.BaseTuple.from_types([types.boolean, types.int64, types.int64, types.CPointer(types.int64), *arrays])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        int64, flags_type = ir.IntType(64), ir.IntType(32)
        of_rows = cgutils.create_struct_proxy(numbers)(context, builder, args[0])
        table = _address(builder, of_rows.array, int64)
        contiguous, *layouts = [
            builder.load(builder.gep(table, [int64(at)])) for at in range(2, CALL + NUMBERS * len(given))
        ]
        made = [_address(builder, args[1], int64)]
        fit = cgutils.true_bit
        read: list[Any] = []
        written: list[Any] = []
        for at, (group, place, dtype) in enumerate(given):
            if dtype is types.none:
                made.append(context.get_dummy_value())
                continue
            x = _field(builder, args[2 if group is reads else 3], tuple, place, cgutils.voidptr_t)
            of_type, numbers_ = context.get_data_type(dtype), layouts[NUMBERS * at : NUMBERS * (at + 1)]
            address, flags = _address(builder, x, of_type), _field(builder, x, object, 6, flags_type)
            item = int64(context.get_abi_sizeof(of_type))
            array = make_array(arrays[at])(context, builder)
            populate_array(array, address, numbers_[:4], numbers_[4:], item, None)
            made.append(array._getvalue())
            wanted = flags_type(CONTIGUOUS | ALIGNED | (0 if group.readonly else WRITEABLE))
            fit = builder.and_(fit, builder.icmp_signed("==", builder.and_(flags, wanted), wanted))
            first = builder.ptrtoint(address, item.type)
            end = builder.add(first, reduce(builder.mul, numbers_[:4], item))
            (read if group.readonly else written).append((first, end))
        for (first, end), (other, other_end) in product(read, written):
            apart = builder.or_(builder.icmp_unsigned("<=", end, other), builder.icmp_unsigned("<=", other_end, first))
            fit = builder.and_(fit, apart)
        fit = builder.or_(fit, builder.icmp_signed("==", contiguous, contiguous.type(0)))
        return context.make_tuple(builder, result, [fit, of_rows.start, of_rows.stop, *made])

    return result(numbers, geometry, reads, writes), codegen
