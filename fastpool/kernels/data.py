"""How compiled code is handed arrays: as the address of their elements, and a table of shapes and strides.

Numba's own way makes an object for each array that counts references to it, and an array of other axes must be made
first of one that has not four. Here neither is: it is the caller that keeps the arrays, and knows what they are.
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
#: Shape and strides of a geometry: see `fastpool.kernels.geometry`.
GEOMETRY = (3, 7), (56, 8)
#: NumPy's flags.
CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400


class Elements(types.Type):
    """Where the elements of an array are, and its flags."""

    def __init__(self, dtype: types.Type, readonly: bool) -> None:
        self.dtype, self.readonly = dtype, readonly
        super().__init__(f"Elements({dtype}, {'readonly' if readonly else 'written'})")


@register_model(Elements)
class _ElementsModel(models.StructModel):
    def __init__(self, dmm: Any, fe_type: Elements) -> None:
        super().__init__(dmm, fe_type, [("address", types.CPointer(fe_type.dtype)), ("flags", types.int32)])


@unbox(Elements)
def _unbox(typ: Elements, array: Any, c: Any) -> NativeValue:
    """Read the first field that NumPy adds to Python's object, and the one behind six fields of a pointer's size.

    NumPy's binary interface has the address and the flags there.
    """
    elements = cgutils.create_struct_proxy(typ)(c.context, c.builder)
    size = c.context.get_abi_sizeof(cgutils.voidptr_t)

    def field(skipped: int, of_type: ir.Type) -> Any:
        offset = ir.IntType(64)(object.__basicsize__ + skipped * size)
        place = c.builder.gep(c.builder.bitcast(array, cgutils.voidptr_t), [offset])
        return c.builder.load(c.builder.bitcast(place, of_type.as_pointer()))

    elements.address = field(0, elements.address.type)
    elements.flags = field(6, elements.flags.type)
    return NativeValue(elements._getvalue())


@intrinsic
def views(
    typingctx: Any, numbers: Elements, geometry: Elements, reads: types.BaseTuple, writes: types.BaseTuple
) -> Any:
    """Whether the arrays are as the call takes them; the two numbers that say which rows; the geometry; the arrays.

    These have four axes each; what is None stays None. A call of contiguous arrays takes none that is not aligned or,
    where it is written to, not writeable or not apart from one that is read: Python takes ten times as long to see.
    """
    from numba.np.arrayobj import make_array, populate_array  # imports much that only a compiler needs

    given: list[Any] = [typ for group in (reads, writes) for typ in group]
    arrays: list[Any] = [a if a is types.none else types.Array(a.dtype, 4, "A", readonly=a.readonly) for a in given]
    of_geometry = types.Array(types.int64, 2, "C", readonly=True)
    result = types.BaseTuple.from_types([types.boolean, types.int64, types.int64, of_geometry, *arrays])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def constants(values: tuple[int, ...] | range) -> list[Any]:
            return [context.get_constant(types.intp, value) for value in values]

        def elements(typ: Elements, value: Any) -> Any:
            return cgutils.create_struct_proxy(typ)(context, builder, value)

        def array(typ: types.Array, address: Any, shape: list[Any], strides: list[Any], item: Any) -> Any:
            made = make_array(typ)(context, builder)
            populate_array(made, address, shape, strides, item, None)
            return made._getvalue()

        table = elements(numbers, args[0]).address
        start, stop, contiguous, *layouts = [
            builder.load(builder.gep(table, [at])) for at in constants(range(CALL + NUMBERS * len(given)))
        ]
        shape, strides = map(constants, GEOMETRY)
        made = [array(of_geometry, elements(geometry, args[1]).address, shape, strides, strides[-1])]
        values = [builder.extract_value(t, i) for t, of in zip(args[2:], (reads, writes)) for i in range(len(of))]
        fit = cgutils.true_bit
        read: list[Any] = []
        written: list[Any] = []
        for i, (typ, value) in enumerate(zip(given, values)):
            if typ is types.none:
                made.append(context.get_dummy_value())
                continue
            x, numbers_ = elements(typ, value), layouts[NUMBERS * i : NUMBERS * (i + 1)]
            (item,) = constants((context.get_abi_sizeof(context.get_data_type(typ.dtype)),))
            made.append(array(arrays[i], x.address, numbers_[:4], numbers_[4:], item))
            wanted = x.flags.type(CONTIGUOUS | ALIGNED | (0 if typ.readonly else WRITEABLE))
            fit = builder.and_(fit, builder.icmp_signed("==", builder.and_(x.flags, wanted), wanted))
            first = builder.ptrtoint(x.address, item.type)
            end = builder.add(first, reduce(builder.mul, numbers_[:4], item))
            (read if typ.readonly else written).append((first, end))
        for (first, end), (other, other_end) in product(read, written):
            apart = builder.or_(builder.icmp_unsigned("<=", end, other), builder.icmp_unsigned("<=", other_end, first))
            fit = builder.and_(fit, apart)
        fit = builder.or_(fit, builder.icmp_signed("==", contiguous, contiguous.type(0)))
        return context.make_tuple(builder, result, [fit, start, stop, *made])

    return result(numbers, geometry, reads, writes), codegen
