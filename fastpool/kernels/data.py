"""How compiled code is handed arrays: as the address of their elements, and a table of shapes and strides.

Numba's own way makes an object for each array that counts references to it, and an array of other axes must be made
first of one that has not four. Here neither is: it is the caller that keeps the arrays, and knows what they are.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

#: Shape and strides of an array of four axes.
NUMBERS = 8
#: Shape and strides of a geometry: see `fastpool.kernels.geometry`.
GEOMETRY = (3, 7), (56, 8)


class Elements(types.Type):
    """Where the elements of an array are."""

    def __init__(self, dtype: types.Type, readonly: bool) -> None:
        self.dtype, self.readonly = dtype, readonly
        super().__init__(f"Elements({dtype}, {'readonly' if readonly else 'written'})")


@register_model(Elements)
class _ElementsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Elements) -> None:
        super().__init__(dmm, fe_type, dmm.lookup(fe_type.dtype).get_data_type().as_pointer())


@unbox(Elements)
def _unbox(typ: Elements, array: Any, c: Any) -> NativeValue:
    """Read the first field that NumPy adds to Python's object: the address. NumPy's binary interface has it."""
    of_type = c.context.get_value_type(typ)
    field = c.builder.gep(c.builder.bitcast(array, cgutils.voidptr_t), [ir.IntType(64)(object.__basicsize__)])
    return NativeValue(c.builder.load(c.builder.bitcast(field, of_type.as_pointer())))


@intrinsic
def views(typingctx: Any, geometry: Elements, layouts: Elements, data: types.BaseTuple) -> Any:
    """The geometry, and the arrays, of four axes each; what is None stays None."""
    from numba.np.arrayobj import make_array, populate_array  # imports much that only a compiler needs

    arrays: list[Any] = [a if a is types.none else types.Array(a.dtype, 4, "A", readonly=a.readonly) for a in data]
    of_geometry = types.Array(types.int64, 2, "C", readonly=True)
    result = types.BaseTuple.from_types([of_geometry, *arrays])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def array(typ: types.Array, address: Any, shape: list[Any], strides: list[Any]) -> Any:
            made = make_array(typ)(context, builder)
            item = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(typ.dtype)))
            populate_array(made, address, shape, strides, item, None)
            return made._getvalue()

        def constants(values: tuple[int, ...]) -> list[Any]:
            return [context.get_constant(types.intp, value) for value in values]

        values = [array(of_geometry, args[0], *map(constants, GEOMETRY))]
        for i, typ in enumerate(arrays):
            if typ is types.none:
                values.append(context.get_dummy_value())
                continue
            places = (builder.gep(args[1], [at]) for at in constants(tuple(range(NUMBERS * i, NUMBERS * (i + 1)))))
            numbers = [builder.load(place) for place in places]
            values.append(array(typ, builder.extract_value(args[2], i), numbers[:4], numbers[4:]))
        return context.make_tuple(builder, result, values)

    return result(geometry, layouts, data), codegen
