"""A vector type for Numba: explicit SIMD that LLVM lowers for any CPU.

LLVM's own vectorizer leaves rows shorter than its unrolled step to scalar code, and most rows of
real networks are that short. Kernels therefore say themselves what is done a vector at a time.

The vocabulary is that of portable SIMD libraries (https://github.com/google/highway): a *tag* names
an element type and a number of lanes, loads and `splat` take a tag, everything else follows from the
vectors. One vector has `BYTES` bytes of the tag's widest element: a register of AVX-512, two of AVX2,
four of NEON; LLVM splits what the CPU has no register for. Nothing here is specific to a target.

Memory is read and written through pointers, at offsets counted in elements, without bounds checks; the
variants with limits touch nothing outside of them. A pointer is not counted as a reference: handing an
array to a function, even to an inlined one, can cost two atomic operations. So whoever takes a pointer
keeps its array: that of an argument lives anyway, that of scratch as long as `keep` says.

Loads and stores convert between memory's floats and the vector's, and between its unsigned integers and wider ones.
Memory may hold `Half` elements, of float16 or bfloat16, which are only read and written: their tags are those of
float32. Stores round to the nearest, ties to even.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model
from numba.np.numpy_support import as_dtype, from_dtype

BYTES = 64
_I1 = ir.IntType(1)
_LANE = ir.VectorType(ir.IntType(32), 1)


class Tag(types.Opaque):
    """An element type and a number of lanes: a compile-time value, nothing at run time."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(f"simd.Tag({element} x {lanes})")


class Vector(types.Type):
    """`lanes` elements of type `element`; boolean elements make a mask."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(f"simd.Vector({element} x {lanes})")


class Half(types.Type):
    """An element of memory that has 16 bits of a float: "float16" or "bfloat16"."""

    def __init__(self, name: str) -> None:
        super().__init__(name)


_HALVES = {name: Half(name) for name in ("float16", "bfloat16")}


def element(dtype: np.dtype[Any]) -> types.Type:
    """Return the type of an array's elements."""
    return _HALVES.get(dtype.name) or from_dtype(dtype)


@register_model(Tag)
class _TagModel(models.OpaqueModel):
    pass


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Half) -> None:
        super().__init__(dmm, fe_type, ir.IntType(16))


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_llvm(fe_type.element), fe_type.lanes))


def _llvm(element: types.Type) -> ir.Type:
    if element == types.boolean:
        return _I1
    if isinstance(element, types.Float):
        return ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
    if isinstance(element, Half):
        return ir.IntType(16)
    return ir.IntType(element.bitwidth)


def _mask(v: Vector) -> Vector:
    return Vector(types.boolean, v.lanes)


# ---------------------------------------------------------------- tags


@intrinsic
def tag(typingctx: Any, array: types.Array) -> Any:
    """The elements of `array`, as many as fill one vector."""
    element = types.float32 if isinstance(array.dtype, Half) else array.dtype
    return _constant(Tag(element, BYTES * 8 // element.bitwidth), array)


@intrinsic(prefer_literal=True)
def widened(typingctx: Any, d: Tag, times: types.Literal) -> Any:
    """The tag of vectors `times` as long."""
    return _constant(Tag(d.element, d.lanes * times.literal_value), d, times)


@intrinsic
def several(typingctx: Any, d: Tag) -> Any:
    """The tag of as many vectors side by side as there are registers for, with others to compare them to.

    Where CPUs have masks of their own they have twice as many registers, each of twice the bytes.
    """
    return _constant(Tag(d.element, d.lanes * (4 if has_masks() else 2)), d)


@intrinsic
def single(typingctx: Any, d: Tag) -> Any:
    """The tag of one vector of such elements."""
    return _constant(Tag(d.element, BYTES * 8 // d.element.bitwidth), d)


@intrinsic(prefer_literal=True)
def narrowed(typingctx: Any, d: Tag, times: types.Literal) -> Any:
    """The tag of vectors one `times`-th as long."""
    return _constant(Tag(d.element, d.lanes // times.literal_value), d, times)


@intrinsic
def position_tag(typingctx: Any, like: Tag, array: types.Array) -> Any:
    """Integers for the elements of an argmax (or of None), a lane for each of `like`'s.

    They are as wide as those: a mask of narrower lanes is many instructions away where masks are vectors.
    """
    return _constant(_integers(like, array, like.element.bitwidth), like, array)


@intrinsic
def mask_tag(typingctx: Any, like: Tag, array: types.Array) -> Any:
    """`position_tag` where CPUs have no masks of their own; where they have, integers no wider than in memory."""
    return _constant(_integers(like, array, 8 if has_masks() else like.element.bitwidth), like, array)


def _integers(like: Tag, array: types.Type, bits: int) -> Tag:
    """Return a tag for the elements of an array (of None, bytes), or wider ones, a lane for each of `like`'s."""
    in_memory = array.dtype.bitwidth if isinstance(array, types.Array) else 8
    return Tag(getattr(types, f"uint{max(in_memory, bits)}"), like.lanes)


@intrinsic
def tag_beside(typingctx: Any, like: Tag, array: types.Array) -> Any:
    """The elements of `array` (of None, bytes), a lane for each of `like`'s."""
    return _constant(_integers(like, array, 8), like, array)


def _constant(result: types.Type, *args: types.Type) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return result(*args), codegen


@intrinsic
def lanes(typingctx: Any, d: Tag) -> Any:
    """How many lanes the tag has."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, d.lanes)

    return types.intp(d), codegen


@intrinsic
def lowest(typingctx: Any, d: Tag) -> Any:
    """The value that none of the tag's elements is smaller than."""
    dtype = as_dtype(d.element)
    value = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(d.element, value)

    return d.element(d), codegen


@intrinsic
def nans(typingctx: Any, d: Tag) -> Any:
    """None where the tag's elements have no NaN, so that the compiler sees it; else True."""
    return _constant(types.none, d) if isinstance(d.element, types.Integer) else (types.boolean(d), _true)


@intrinsic
def sums(typingctx: Any, result: types.CPointer, scratch: types.CPointer) -> Any:
    """`result` where it holds elements of the type that `scratch` does; else, as where it holds halves, `scratch`."""
    alike = result.dtype == scratch.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0] if alike else args[1]

    return (result if alike else scratch)(result, scratch), codegen


@intrinsic
def alike(typingctx: Any, a: types.CPointer, b: types.CPointer) -> Any:
    """True where both hold elements of the same type; else None, so that the compiler sees it."""
    return (types.boolean(a, b), _true) if a.dtype == b.dtype else _constant(types.none, a, b)


@intrinsic
def halves(typingctx: Any, memory: types.CPointer) -> Any:
    """None where memory has no halves, so that the compiler sees it; else True."""
    return (types.boolean(memory), _true) if isinstance(memory.dtype, Half) else _constant(types.none, memory)


def _true(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return context.get_constant(types.boolean, True)


@intrinsic
def highest(typingctx: Any, d: Tag) -> Any:
    """The largest of the tag's integers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(d.element, d.element.maxval)

    return d.element(d), codegen


@intrinsic
def scalar(typingctx: Any, d: Tag, value: types.Number) -> Any:
    """`value` as one of the tag's elements."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[1], value, d.element)

    return d.element(d, value), codegen


# ---------------------------------------------------------------- memory


@intrinsic
def scratch(typingctx: Any, d: Tag, size: types.Integer) -> Any:
    """A new array of `size` elements of the tag's type, not filled."""
    from numba.np.arrayobj import _empty_nd_impl  # imports much that only a compiler needs

    array = types.Array(d.element, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _empty_nd_impl(context, builder, array, [args[1]])._getvalue()

    return array(d, types.intp), codegen


@intrinsic
def pointer(typingctx: Any, array: types.Array) -> Any:
    """The address of the first element; of None, None."""
    if isinstance(array, types.NoneType):
        return _constant(array, array)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def beside(typingctx: Any, array: types.Array, memory: types.CPointer) -> Any:
    """`memory`, or None where `array` is None."""
    if isinstance(array, types.NoneType):
        return _constant(array, array, memory)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[1]

    return memory(array, memory), codegen


@intrinsic
def offset(typingctx: Any, memory: types.CPointer, elements: types.Integer) -> Any:
    """The address that is so many elements further; of None, None."""
    if isinstance(memory, types.NoneType):
        return _constant(memory, memory, elements)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return memory(memory, types.intp), codegen


@intrinsic
def aligned(typingctx: Any, memory: types.CPointer) -> Any:
    """The next address that is a multiple of a vector's size, at most a vector further."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        address = builder.add(builder.ptrtoint(args[0], i64), i64(BYTES - 1))
        return builder.inttoptr(builder.and_(address, i64(-BYTES)), args[0].type)

    return memory(memory), codegen


@intrinsic
def within_line(typingctx: Any, memory: types.CPointer) -> Any:
    """How many elements a cache line has before the address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        before = builder.and_(builder.ptrtoint(args[0], i64), i64(BYTES - 1))
        return builder.udiv(before, i64(context.get_abi_sizeof(args[0].type.pointee)))

    return types.intp(memory), codegen


@intrinsic
def to_front(typingctx: Any, memory: types.CPointer, offset: types.Integer) -> Any:
    """Copy a vector's elements from an offset to the front of memory, be it over themselves."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory, offset = args
        vector = ir.VectorType(ir.IntType(8), BYTES).as_pointer()
        v = builder.load(builder.bitcast(builder.gep(memory, [offset]), vector), align=1)
        builder.store(v, builder.bitcast(memory, vector), align=1)
        return context.get_dummy_value()

    return types.none(memory, types.intp), codegen


@intrinsic
def copy(
    typingctx: Any,
    memory: types.CPointer,
    offset: types.Integer,
    source: types.CPointer,
    source_offset: types.Integer,
    count: types.Integer,
) -> Any:
    """Copy `count` elements of one type from `source`, at an offset, to `memory`, as the C library does it best."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, offset, source, source_offset, count = args
        size = context.get_abi_sizeof(to.type.pointee)
        cgutils.raw_memcpy(builder, builder.gep(to, [offset]), builder.gep(source, [source_offset]), count, size)
        return context.get_dummy_value()

    return types.none(memory, types.intp, source, types.intp, types.intp), codegen


@intrinsic
def stream(
    typingctx: Any,
    memory: types.CPointer,
    offset: types.Integer,
    source: types.CPointer,
    source_offset: types.Integer,
    count: types.Integer,
) -> Any:
    """`copy` past the caches: what is written is not read before, and evicts nothing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, offset, source, source_offset, count = args
        size = context.get_abi_sizeof(to.type.pointee)
        i64 = count.type
        lanes = i64(BYTES // size)
        to, source = builder.gep(to, [offset]), builder.gep(source, [source_offset])
        before = builder.and_(builder.neg(builder.ptrtoint(to, i64)), i64(BYTES - 1))
        head = builder.udiv(before, i64(size))
        head = builder.select(builder.icmp_signed("<", head, count), head, count)
        with builder.if_then(builder.icmp_signed(">", head, i64(0)), likely=False):  # spares a call
            cgutils.raw_memcpy(builder, to, source, head, size)
        blocks = builder.udiv(builder.sub(count, head), lanes)
        vector = ir.VectorType(to.type.pointee, BYTES // size)
        with cgutils.for_range(builder, blocks) as loop:
            at = builder.add(head, builder.mul(loop.index, lanes))
            v = builder.load(builder.bitcast(builder.gep(source, [at]), vector.as_pointer()), align=1)
            st = builder.store(v, builder.bitcast(builder.gep(to, [at]), vector.as_pointer()), align=BYTES)
            st.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        done = builder.add(head, builder.mul(blocks, lanes))
        rest = builder.sub(count, done)
        with builder.if_then(builder.icmp_signed(">", rest, i64(0)), likely=False):
            cgutils.raw_memcpy(builder, builder.gep(to, [done]), builder.gep(source, [done]), rest, size)
        return context.get_dummy_value()

    return types.none(memory, types.intp, source, types.intp, types.intp), codegen


@intrinsic
def keep(typingctx: Any, arrays: types.BaseTuple) -> Any:
    """Do nothing, with arrays whose pointers were in use until here."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.none(arrays), codegen


def _converted(context: Any, builder: Any, element: types.Type, computed: types.Type, v: Any) -> Any:
    """What was read from memory of such elements, as it is computed with."""
    if isinstance(element, Half):
        v = _widened(context, builder, element, v)
    if element != types.float64 and computed == types.float64:
        v = builder.fpext(v, ir.VectorType(ir.DoubleType(), v.type.count))
    if isinstance(computed, types.Integer) and computed.bitwidth > element.bitwidth:
        v = builder.zext(v, ir.VectorType(_llvm(computed), v.type.count))
    return v


def _widened(context: Any, builder: Any, element: Half, v: Any) -> Any:
    """The float32 that halves are."""
    n = v.type.count
    floats, words = ir.VectorType(ir.FloatType(), n), ir.VectorType(ir.IntType(32), n)

    def word(value: int) -> Any:
        return ir.Constant(words, [value] * n)

    if element.name == "bfloat16":
        return builder.bitcast(builder.shl(builder.zext(v, words), word(16)), floats)
    if "+f16c" in context.codegen()._tm_features:
        return builder.fpext(builder.bitcast(v, ir.VectorType(ir.HalfType(), n)), floats)
    # The exponent's bias is made up for by a product, which subnormals survive; that of infinities and NaN is set.
    bits = builder.zext(v, words)
    magnitude = builder.and_(bits, word(0x7FFF))
    scaled = builder.fmul(
        builder.bitcast(builder.shl(magnitude, word(13)), floats), ir.Constant(floats, [2.0**112] * n)
    )
    special = builder.icmp_unsigned(">=", magnitude, word(0x7C00))
    result = builder.or_(
        builder.bitcast(scaled, words), builder.select(special, word(0x7F800000), ir.Constant(words, None))
    )
    sign = builder.shl(builder.and_(bits, word(0x8000)), word(16))
    return builder.bitcast(builder.or_(result, sign), floats)


def _narrowed(context: Any, builder: Any, element: types.Type, v: Any) -> Any:
    """What was computed, as it is written to memory of such elements."""
    n = v.type.count
    if isinstance(element, types.Integer):
        return v if v.type.element.width == element.bitwidth else builder.trunc(v, ir.VectorType(_llvm(element), n))
    floats = ir.VectorType(ir.FloatType(), n)
    if v.type.element == ir.DoubleType() and element != types.float64:
        v = builder.fptrunc(v, floats)
    if not isinstance(element, Half):
        return v
    words, halves = ir.VectorType(ir.IntType(32), n), ir.VectorType(ir.IntType(16), n)

    def word(value: int) -> Any:
        return ir.Constant(words, [value] * n)

    def rounded(bits: Any, shift: int) -> Any:
        odd = builder.and_(builder.lshr(bits, word(shift)), word(1))
        return builder.lshr(builder.add(builder.add(bits, word((1 << (shift - 1)) - 1)), odd), word(shift))

    bits = builder.bitcast(v, words)
    if element.name == "bfloat16":
        quiet = builder.or_(builder.lshr(bits, word(16)), word(0x40))
        result = builder.select(builder.fcmp_unordered("uno", v, v), quiet, rounded(bits, 16))
        return builder.trunc(result, halves)
    if "+f16c" in context.codegen()._tm_features:
        return builder.bitcast(builder.fptrunc(v, ir.VectorType(ir.HalfType(), n)), halves)
    magnitude = builder.and_(bits, word(0x7FFFFFFF))
    # The sum with 0.5 has the subnormal in its last bits, rounded.
    half = ir.Constant(floats, [0.5] * n)
    small = builder.sub(
        builder.bitcast(builder.fadd(builder.bitcast(magnitude, floats), half), words), word(0x3F000000)
    )
    usual = rounded(builder.sub(magnitude, word(112 << 23)), 13)
    result = builder.select(builder.icmp_unsigned("<", magnitude, word(113 << 23)), small, usual)
    result = builder.select(builder.icmp_unsigned(">=", magnitude, word(143 << 23)), word(0x7C00), result)
    result = builder.select(builder.icmp_unsigned(">", magnitude, word(0x7F800000)), word(0x7E00), result)
    sign = builder.and_(builder.lshr(bits, word(16)), word(0x8000))
    return builder.trunc(builder.or_(result, sign), halves)


def _address(builder: Any, pointer: types.CPointer, value: Any, offset: Any, lanes: int) -> Any:
    """The address of `lanes` elements from `offset` on."""
    vector = ir.VectorType(_llvm(pointer.dtype), lanes)
    return builder.bitcast(builder.gep(value, [offset]), vector.as_pointer())


def _spread(builder: Any, scalar: Any, lanes: int) -> Any:
    """A vector whose lanes are all `scalar`."""
    vector = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _between(builder: Any, first: Any, last: Any, lanes: int) -> Any:
    """The mask of the lanes from `first` to before `last`, any int64: one compare of bytes, if they count so far.

    Fewer lanes than 16 are of numbers that fill a register of 128 bits all the same. Of bytes, LLVM 22 compares 16
    there, and, when it runs out of mask registers (AVX-512), forgets to leave out those behind: a masked store of
    fewer bytes writes 16.
    """
    byte = ir.IntType(16 if lanes >= 256 else min(64, max(8, 128 // lanes)))

    def clamp(n: Any) -> Any:
        n = builder.select(builder.icmp_signed("<", n, n.type(0)), n.type(0), n)
        return builder.trunc(builder.select(builder.icmp_signed(">", n, n.type(lanes)), n.type(lanes), n), byte)

    first, last = clamp(first), clamp(last)
    count = builder.select(builder.icmp_unsigned(">", last, first), builder.sub(last, first), byte(0))
    places = ir.Constant(ir.VectorType(byte, lanes), list(range(lanes)))
    return builder.icmp_unsigned(
        "<", builder.sub(places, _spread(builder, first, lanes)), _spread(builder, count, lanes)
    )


def _has_masks(context: Any, element: Any) -> bool:
    """Whether the CPU has masks of its own for such elements, of AVX-512."""
    narrow = isinstance(element, ir.IntType) and element.width < 32
    return f"+avx512{'bw' if narrow else 'f'}" in context.codegen()._tm_features


@cache
def has_masks() -> bool:
    """Whether the CPU has masks of its own for elements of any size."""
    return _has_masks(cpu_target.target_context, _I1)


def _masked_load(context: Any, builder: Any, pointer: Any, mask: Any, other: Any) -> Any:
    """Load where the mask is set, else have the lanes of `other`: what the mask leaves out is not touched."""
    vector = other.type
    if isinstance(vector.element, ir.IntType) and vector.element.width < 32 and not _has_masks(context, vector.element):
        # No mask is that narrow here. LLVM would write a branch for every lane: hundreds, and minutes to compile.
        return _load_one_by_one(builder, pointer, mask, other)
    args = [pointer, ir.IntType(32)(1), mask, other]
    name = f"llvm.masked.load.v{vector.count}{_suffix(vector.element)}.p0"
    function_type = ir.FunctionType(vector, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _load_one_by_one(builder: Any, pointer: Any, mask: Any, other: Any) -> Any:
    """Do in a loop over the lanes what `_masked_load` does."""
    i32, i8 = ir.IntType(32), ir.IntType(8)
    chosen = cgutils.alloca_once(builder, ir.VectorType(i8, mask.type.count))
    builder.store(builder.zext(mask, chosen.type.pointee), chosen)
    lanes = cgutils.alloca_once_value(builder, other)

    def lane(array: Any, element: ir.Type, i: Any) -> Any:
        return builder.gep(builder.bitcast(array, element.as_pointer()), [i])

    with cgutils.for_range(builder, i32(mask.type.count)) as loop:
        i = loop.index
        with builder.if_then(builder.trunc(builder.load(lane(chosen, i8, i)), _I1)):
            value = builder.load(lane(pointer, other.type.element, i), align=1)
            builder.store(value, lane(lanes, other.type.element, i), align=1)
    return builder.load(lanes)


def _suffix(element: ir.Type) -> str:
    if isinstance(element, ir.IntType):
        return f"i{element.width}"
    return {ir.FloatType(): "f32", ir.DoubleType(): "f64"}[element]


def _load(builder: Any, pointer: Any) -> Any:
    # align 1: a row starts anywhere
    return builder.load(pointer, align=1)


@intrinsic
def load(typingctx: Any, d: Tag, memory: types.CPointer, offset: types.Integer) -> Any:
    """The elements of memory from `offset` on."""
    result = Vector(d.element, d.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(builder, memory, args[1], args[2], d.lanes)
        return _converted(context, builder, memory.dtype, d.element, _load(builder, pointer))

    return result(d, memory, types.intp), codegen


@intrinsic(prefer_literal=True)
def load_every(typingctx: Any, d: Tag, memory: types.CPointer, offset: types.Integer, stride: types.Literal) -> Any:
    """Every `stride`-th element of memory from `offset` on; those of as many vectors as the stride are read.

    Costs these loads, one blend less and one permutation: the vectors begin where the wanted lanes of no two are the
    same.
    """
    step, element = stride.literal_value, d.element

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n = d.lanes
        i32 = ir.IntType(32)
        apart = math.gcd(step, n)  # so far apart are the wanted lanes of all vectors
        total: Any = None
        owner: dict[int, int] = {}
        for v in range(step):
            start = v * n - v // (step // apart)
            wanted = [i for i in range(n) if start <= i * step < start + n and i not in owner.values()]
            pointer = _address(builder, memory, args[1], builder.add(args[2], args[2].type(start)), n)
            lanes = _converted(context, builder, memory.dtype, element, _load(builder, pointer))
            mine = {i * step - start: i for i in wanted}
            owner |= mine
            if total is None:
                total = lanes
            else:
                blend = [n + i if i in mine else i for i in range(n)]
                total = builder.shuffle_vector(total, lanes, ir.Constant(ir.VectorType(i32, n), blend))
        lane_of = {i: lane for lane, i in owner.items()}
        order = ir.Constant(ir.VectorType(i32, n), [lane_of[i] for i in range(n)])
        return builder.shuffle_vector(total, ir.Constant(total.type, ir.Undefined), order)

    return Vector(element, d.lanes)(d, memory, types.intp, stride), codegen


@intrinsic
def load_between(
    typingctx: Any,
    d: Tag,
    memory: types.CPointer,
    offset: types.Integer,
    first: types.Integer,
    last: types.Integer,
) -> Any:
    """`load`, reading only the lanes from `first` to before `last`; the others are zero.

    Costs two compares and a branch where all lanes are read, and a masked load where not (one
    instruction with AVX, some per lane on CPUs without masks).
    """
    result = Vector(d.element, d.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, value, offset, first, last = args
        pointer = _address(builder, memory, value, offset, d.lanes)
        v = _load_between(context, builder, pointer, first, last, ir.Constant(pointer.type.pointee, None))
        return _converted(context, builder, memory.dtype, d.element, v)

    return result(d, memory, types.intp, types.intp, types.intp), codegen


@intrinsic
def between(typingctx: Any, d: Tag, first: types.Integer, last: types.Integer) -> Any:
    """The mask of the tag's lanes from `first` to before `last`, any integers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _between(builder, args[1], args[2], d.lanes)

    return Vector(types.boolean, d.lanes)(d, types.intp, types.intp), codegen


@intrinsic
def load_where(
    typingctx: Any, mask: Vector, whole: types.Boolean, other: Vector, memory: types.CPointer, offset: types.Integer
) -> Any:
    """`load` where the mask is set, else the lanes of `other`; or plainly `load`, if all of it is known to be set.

    A masked load is one instruction with AVX, and some per lane on CPUs without masks.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask, whole, value, pointer, offset = args
        pointer = _address(builder, memory, pointer, offset, other.lanes)
        if memory.dtype != other.element:
            zeros = ir.Constant(pointer.type.pointee, None)
            v = _load_where(context, builder, pointer, lambda: mask, whole, zeros)
            return builder.select(mask, _converted(context, builder, memory.dtype, other.element, v), value)
        return _load_where(context, builder, pointer, lambda: mask, whole, value)

    return other(mask, types.boolean, other, memory, types.intp), codegen


def _load_where(context: Any, builder: Any, pointer: Any, mask: Callable[[], Any], whole: Any, other: Any) -> Any:
    with builder.if_else(whole) as (then, otherwise):
        with then:
            full = _load(builder, pointer)
            full_block = builder.block
        with otherwise:
            part = _masked_load(context, builder, pointer, mask(), other)
            part_block = builder.block
    loaded = builder.phi(other.type)
    loaded.add_incoming(full, full_block)
    loaded.add_incoming(part, part_block)
    return loaded


@intrinsic
def load_or(
    typingctx: Any,
    other: Vector,
    memory: types.CPointer,
    offset: types.Integer,
    first: types.Integer,
    last: types.Integer,
) -> Any:
    """The elements of memory from `offset` on in the lanes from `first` to before `last`; else those of `other`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, memory, offset, first, last = args
        element = signature.args[1].dtype
        pointer = _address(builder, signature.args[1], memory, offset, other.lanes)
        if element != other.element:
            v = _load_between(context, builder, pointer, first, last, ir.Constant(pointer.type.pointee, None))
            mask = _between(builder, first, last, other.lanes)
            return builder.select(mask, _converted(context, builder, element, other.element, v), value)
        return _load_between(context, builder, pointer, first, last, value)

    return other(other, memory, types.intp, types.intp, types.intp), codegen


def _load_between(context: Any, builder: Any, pointer: Any, first: Any, last: Any, other: Any) -> Any:
    lanes = other.type.count
    whole = builder.and_(
        builder.icmp_signed("<=", first, first.type(0)), builder.icmp_signed(">=", last, last.type(lanes))
    )
    return _load_where(context, builder, pointer, lambda: _between(builder, first, last, lanes), whole, other)


@intrinsic
def prefetch(typingctx: Any, memory: types.CPointer, offset: types.Integer) -> Any:
    """Ask for the cache line at `offset`, wherever that is: nothing is read, so nothing need be there."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32]), "llvm.prefetch.p0"
        )
        builder.call(function, [address, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.none(memory, types.intp), codegen


@intrinsic
def store(typingctx: Any, memory: types.CPointer, offset: types.Integer, v: Vector) -> Any:
    """Write all lanes of `v` to memory from `offset` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(builder, memory, args[0], args[1], v.lanes)
        builder.store(_narrowed(context, builder, memory.dtype, args[2]), pointer, align=1)
        return context.get_dummy_value()

    return types.none(memory, types.intp, v), codegen


def _shuffled(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """The lanes of a, and those of b behind them, that are at these places."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


@intrinsic(prefer_literal=True)
def store_in_turn(
    typingctx: Any,
    memory: types.CPointer,
    offset: types.Integer,
    d: Tag,
    source: types.CPointer,
    source_offset: types.Integer,
    pitch: types.Integer,
    count: types.Literal,
    to: Vector | types.NoneType,
) -> Any:
    """Write an element of each of `count` vectors in turn, which are `pitch` apart in `source`: `load_every` undone.

    Each is added `to` a vector before, if that is not None.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, offset, _, source_value, source_offset, pitch, _, start = args
        n, shuffled = d.lanes, partial(_shuffled, builder)

        def zipped(a: Any, b: Any) -> list[Any]:
            return [shuffled(a, b, [start + i // 2 + i % 2 * n for i in range(n)]) for start in (0, n // 2)]

        def in_turn(runs: list[list[Any]]) -> list[Any]:
            many = len(runs)
            if many == 1:
                return runs[0]
            if many % 2 == 0:
                return [v for a, b in zip(in_turn(runs[::2]), in_turn(runs[1::2])) for v in zipped(a, b)]
            result = []
            for vectors in zip(*runs):
                # Every lane goes where it is in the result, no matter in which of its vectors; then they are blended.
                spread = [
                    shuffled(v, v, [i for _, i in sorted(((p + many * i) % n, i) for i in range(n))])
                    for p, v in enumerate(vectors)
                ]
                for k in range(many):
                    phases = [(k * n + lane) % many for lane in range(n)]
                    total = spread[0]
                    for p in range(1, many):
                        total = shuffled(total, spread[p], [lane + n * (phases[lane] == p) for lane in range(n)])
                    result.append(total)
            return result

        vectors = []
        for p in range(count.literal_value):
            at = builder.add(source_offset, builder.mul(pitch, pitch.type(p)))
            v = _load(builder, _address(builder, source, source_value, at, n))
            v = _converted(context, builder, source.dtype, d.element, v)
            vectors.append([v if to is types.none else builder.fadd(start, v)])
        for k, v in enumerate(in_turn(vectors)):
            pointer = _address(builder, memory, value, builder.add(offset, offset.type(k * n)), n)
            builder.store(_narrowed(context, builder, memory.dtype, v), pointer, align=1)
        return context.get_dummy_value()

    return types.none(memory, types.intp, d, source, types.intp, types.intp, count, to), codegen


@intrinsic(prefer_literal=True)
def store_apart(
    typingctx: Any,
    memory: types.CPointer,
    offset: types.Integer,
    pitch: types.Integer,
    d: Tag,
    source: types.CPointer,
    source_offset: types.Integer,
    count: types.Literal,
) -> Any:
    """Write what is in turn in `source` to `count` runs, `pitch` apart, a vector each: `store_in_turn` undone."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, offset, pitch, _, source_value, source_offset, _ = args
        n, shuffled = d.lanes, partial(_shuffled, builder)

        def apart(vectors: list[Any]) -> list[Any]:
            many = len(vectors)
            if many == 1:
                return vectors
            if many % 2 == 0:
                pairs = list(zip(vectors[::2], vectors[1::2]))
                halves = [apart([shuffled(a, b, list(range(k, 2 * n, 2))) for a, b in pairs]) for k in range(2)]
                return [v for both in zip(*halves) for v in both]
            result = []
            for p in range(many):
                # The lanes that are wanted of all vectors differ: they are blended, then each goes to its place.
                where = [divmod(p + many * i, n) for i in range(n)]
                vector_of = {lane: k for k, lane in where}
                total = vectors[0]
                for k in range(1, many):
                    total = shuffled(total, vectors[k], [lane + n * (vector_of[lane] == k) for lane in range(n)])
                result.append(shuffled(total, total, [lane for _, lane in where]))
            return result

        vectors = []
        for k in range(count.literal_value):
            at = builder.add(source_offset, source_offset.type(k * n))
            v = _load(builder, _address(builder, source, source_value, at, n))
            vectors.append(_converted(context, builder, source.dtype, d.element, v))
        for k, v in enumerate(apart(vectors)):
            at = builder.add(offset, builder.mul(pitch, pitch.type(k)))
            builder.store(
                _narrowed(context, builder, memory.dtype, v), _address(builder, memory, value, at, n), align=1
            )
        return context.get_dummy_value()

    return types.none(memory, types.intp, types.intp, d, source, types.intp, count), codegen


def _blocks_transposed(builder: Any, vectors: list[Any]) -> list[Any]:
    """As many vectors as 16 bytes have elements, with lane i of each such block of vector k and lane k of i swapped."""
    n, size = vectors[0].type.count, len(vectors)

    def zipped(a: Any, b: Any, start: int) -> Any:
        places = [block + start + i // 2 + i % 2 * n for block in range(0, n, size) for i in range(size)]
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), n), places))

    for _ in range(size.bit_length() - 1):
        halves = zip(vectors[: size // 2], vectors[size // 2 :])
        vectors = [zipped(a, b, start) for a, b in halves for start in (0, size // 2)]
    return vectors


def _joined(builder: Any, parts: list[Any]) -> Any:
    """All lanes of some vectors, a power of two, one after the other."""
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        places = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(lanes)))
        parts = [builder.shuffle_vector(a, b, places) for a, b in zip(parts[::2], parts[1::2])]
    return parts[0]


@intrinsic
def interleave(
    typingctx: Any,
    memory: types.CPointer,
    offset: types.Integer,
    step: types.Integer,
    d: Tag,
    source: types.CPointer,
    source_offset: types.Integer,
    stride: types.Integer,
) -> Any:
    """Copy 16 bytes from each of as many places as there are lanes, a stride apart: all first elements side by side.

    All second ones are a step further, and so on. Costs a load for 16 bytes, and a zip for each vector each time that
    these are halved until there is one element: registers of 128 bits are all that lanes are moved in.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, offset, step, _, value, source_offset, stride = args
        size = 128 // d.element.bitwidth
        vectors = []
        for k in range(size):
            places = [builder.mul(stride, stride.type(place)) for place in range(k, d.lanes, size)]
            parts = [_address(builder, source, value, builder.add(source_offset, place), size) for place in places]
            vectors.append(_joined(builder, [_load(builder, part) for part in parts]))
        for k, v in enumerate(_blocks_transposed(builder, vectors)):
            at = builder.add(offset, builder.mul(step, step.type(k)))
            builder.store(v, _address(builder, memory, to, at, d.lanes), align=1)
        return context.get_dummy_value()

    number = types.intp
    return types.none(memory, number, number, d, source, number, number), codegen


@intrinsic
def deinterleave(
    typingctx: Any,
    memory: types.CPointer,
    offset: types.Integer,
    stride: types.Integer,
    d: Tag,
    source: types.CPointer,
    source_offset: types.Integer,
    step: types.Integer,
) -> Any:
    """Copy vectors that are a step apart, as many as 16 bytes have elements: `interleave` undone, place by place."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, offset, stride, _, value, source_offset, step = args
        size = 128 // d.element.bitwidth
        vectors = []
        for k in range(size):
            at = builder.add(source_offset, builder.mul(step, step.type(k)))
            vectors.append(_load(builder, _address(builder, source, value, at, d.lanes)))
        transposed = _blocks_transposed(builder, vectors)
        for place in range(d.lanes):
            v, block = transposed[place % size], place - place % size
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(block, block + size)))
            part = builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), lanes)
            at = builder.add(offset, builder.mul(stride, stride.type(place)))
            builder.store(part, _address(builder, memory, to, at, size), align=1)
        return context.get_dummy_value()

    number = types.intp
    return types.none(memory, number, number, d, source, number, number), codegen


@intrinsic
def store_before(typingctx: Any, memory: types.CPointer, offset: types.Integer, v: Vector, end: types.Integer) -> Any:
    """`store`, writing only the lanes that fall before offset `end`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, offset, vector, end = args
        _store_first(context, builder, memory, pointer, offset, vector, builder.sub(end, offset))
        return context.get_dummy_value()

    return types.none(memory, types.intp, v, types.intp), codegen


@intrinsic
def store_first(typingctx: Any, memory: types.CPointer, offset: types.Integer, v: Vector, count: types.Integer) -> Any:
    """`store`, writing only so many lanes, the first ones; more than there are, or fewer than none, are all or none."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store_first(context, builder, memory, *args)
        return context.get_dummy_value()

    return types.none(memory, types.intp, v, types.intp), codegen


@intrinsic
def store_one(typingctx: Any, memory: types.CPointer, offset: types.Integer, v: Vector) -> Any:
    """`store`, writing only the first lane.

    Of a mask that LLVM 22 knows to be one lane it makes, where lanes are narrowed to 16 bits, a store of 32.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, offset, vector = args
        one = builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), ir.Constant(_LANE, [0]))
        builder.store(
            _narrowed(context, builder, memory.dtype, one), _address(builder, memory, pointer, offset, 1), align=1
        )
        return context.get_dummy_value()

    return types.none(memory, types.intp, v), codegen


def _store_first(
    context: Any, builder: Any, memory: types.CPointer, pointer: Any, offset: Any, v: Any, count: Any
) -> None:
    v = _narrowed(context, builder, memory.dtype, v)
    lanes = v.type.count
    with builder.if_else(builder.icmp_signed(">=", count, count.type(lanes)), likely=True) as (then, otherwise):
        with then:
            builder.store(v, _address(builder, memory, pointer, offset, lanes), align=1)
        with otherwise:
            if _has_masks(context, v.type.element):
                mask = _between(builder, count.type(0), count, lanes)
                args = [v, _address(builder, memory, pointer, offset, lanes), ir.IntType(32)(1), mask]
                name = f"llvm.masked.store.v{lanes}{_suffix(v.type.element)}.p0"
                function_type = ir.FunctionType(ir.VoidType(), [a.type for a in args])
                builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)
            else:
                _store_by_halves(builder, memory, pointer, offset, v, count)


def _store_by_halves(builder: Any, memory: types.CPointer, pointer: Any, offset: Any, v: Any, count: Any) -> None:
    """Write the first lanes as a half, a quarter, and so on, where they are that many.

    The branches go the same way at the end of every row. AVX2 has masked stores, which take 50 cycles on AMD's CPUs.
    """
    count = builder.select(builder.icmp_signed("<", count, count.type(0)), count.type(0), count)
    lanes = v.type.count
    while lanes > 1:
        lanes //= 2

        def half(first: int) -> Any:
            places = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(first, first + lanes)))  # noqa: B023
            return builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), places)  # noqa: B023

        lower, upper = half(0), half(lanes)
        before = builder.block
        with builder.if_then(builder.icmp_unsigned("!=", builder.and_(count, count.type(lanes)), count.type(0))):
            builder.store(lower, _address(builder, memory, pointer, offset, lanes), align=1)
            further = builder.add(offset, offset.type(lanes))
            stored = builder.block
        rest, at = builder.phi(lower.type), builder.phi(offset.type)
        for phi, taken, other in ((rest, upper, lower), (at, further, offset)):
            phi.add_incoming(taken, stored)
            phi.add_incoming(other, before)
        v, offset = rest, at


@intrinsic
def load_scalar(typingctx: Any, memory: types.CPointer, offset: types.Integer) -> Any:
    """The element at `offset`, a half as float32."""
    element = memory.dtype
    result = types.float32 if isinstance(element, Half) else element

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = _load(builder, _address(builder, memory, args[0], args[1], 1))
        return builder.extract_element(_converted(context, builder, element, result, v), ir.IntType(32)(0))

    return result(memory, types.intp), codegen


@intrinsic
def store_scalar(typingctx: Any, memory: types.CPointer, offset: types.Integer, value: types.Number) -> Any:
    """Write an element at `offset`, rounded to a half where memory has these."""
    element = memory.dtype
    computed = types.float32 if isinstance(element, Half) else element

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory_, offset, value = args
        v = _spread(builder, context.cast(builder, value, signature.args[2], computed), 1)
        pointer = _address(builder, memory, memory_, offset, 1)
        builder.store(_narrowed(context, builder, element, v), pointer, align=1)
        return context.get_dummy_value()

    return types.none(memory, types.intp, value), codegen


@intrinsic
def rolled(typingctx: Any) -> Any:
    """In the body of a loop: LLVM shall not unroll it, unless all of it. A loop of few rounds gets slower by that."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # An empty instruction that may not be copied: no CPU ever sees it.
        marker = builder.call(ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), "", "", side_effect=True), [])
        marker.attributes.add("convergent")
        return context.get_dummy_value()

    return types.none(), codegen


# ---------------------------------------------------------------- lanes


@intrinsic
def splat(typingctx: Any, d: Tag, scalar: types.Number) -> Any:
    """A vector whose lanes are all `scalar`."""
    result = Vector(d.element, d.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = context.cast(builder, args[1], signature.args[1], d.element)
        return _spread(builder, value, d.lanes)

    return result(d, scalar), codegen


@intrinsic
def select(typingctx: Any, mask: Vector, a: Vector, b: Vector) -> Any:
    """`a` where the mask is set, else `b`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(mask, a, b), codegen


@intrinsic
def add_where(typingctx: Any, mask: Vector, a: Vector, b: Vector) -> Any:
    """`a + b` where the mask is set, else `a`, which may not be -0.0.

    This is one instruction of CPUs with masks of their own. On others zero is added, as to select takes them two.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask, left, right = args
        add = _arithmetic("add", "fadd")
        if _has_masks(context, _I1):
            return builder.select(mask, add(builder, a, left, right), left)
        return add(builder, a, left, builder.select(mask, right, ir.Constant(right.type, None)))

    return a(mask, a, b), codegen


@intrinsic
def all_bits(typingctx: Any, d: Tag) -> Any:
    """A vector of nothing but set bits: what `cut` keeps all of."""
    result = Vector(d.element, d.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = ir.VectorType(ir.IntType(d.element.bitwidth), d.lanes)
        return builder.bitcast(ir.Constant(words, [-1] * d.lanes), context.get_value_type(result))

    return result(d), codegen


@intrinsic
def cut(typingctx: Any, v: Vector, bits: Vector) -> Any:
    """The bits that are set in both: of a mask that is read from memory, this is cheaper than `select` with AVX2."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = ir.VectorType(ir.IntType(v.element.bitwidth), v.lanes)
        a, b = (builder.bitcast(arg, words) for arg in args)
        return builder.bitcast(builder.and_(a, b), args[0].type)

    return v(v, v), codegen


@intrinsic
def doubles(typingctx: Any) -> Any:
    """The tag of float64."""
    return _constant(Tag(types.float64, BYTES // 8))


def _lane_by_lane(name: str, v: Vector, *args: types.Type) -> Any:
    """The LLVM intrinsic of this name, of vectors of floats and scalars that are spread."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = args[0].type
        given = [a if a.type == vector else _spread(builder, a, v.lanes) for a in args]
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [vector] * len(given)),
            f"llvm.{name}.v{v.lanes}{_suffix(vector.element)}",
        )
        return builder.call(function, given)

    return v(v, *args), codegen


@intrinsic
def absolute(typingctx: Any, v: Vector) -> Any:
    """The magnitudes of floats."""
    return _lane_by_lane("fabs", v)


@intrinsic
def square_root(typingctx: Any, v: Vector) -> Any:
    """The square roots of floats, correctly rounded."""
    return _lane_by_lane("sqrt", v)


@intrinsic
def power(typingctx: Any, v: Vector, exponent: types.Float) -> Any:
    """The floats to a power, as the C library's pow computes it: one lane after the other."""
    return _lane_by_lane("pow", v, v.element)


@intrinsic
def is_nan(typingctx: Any, v: Vector) -> Any:
    """The mask of the lanes that are NaN: of integers, none."""
    return _nan_test(v, "uno", False)


@intrinsic
def either_nan(typingctx: Any, a: Vector, b: Vector) -> Any:
    """The mask of the lanes that are NaN in `a` or in `b`: as cheap as one `is_nan`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(a.element, types.Float):
            return builder.fcmp_ordered("uno", *args)
        return ir.Constant(ir.VectorType(_I1, a.lanes), [False] * a.lanes)

    return _mask(a)(a, b), codegen


@intrinsic
def is_number(typingctx: Any, v: Vector) -> Any:
    """The mask of the lanes that are not NaN: of integers, all."""
    return _nan_test(v, "ord", True)


def _nan_test(v: Vector, predicate: str, of_integers: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(v.element, types.Float):
            return builder.fcmp_ordered(predicate, args[0], args[0])
        return ir.Constant(ir.VectorType(_I1, v.lanes), [of_integers] * v.lanes)

    return _mask(v)(v), codegen


@intrinsic
def no_nan(typingctx: Any, d: Tag) -> Any:
    """That no NaN was seen, for `see` to add to: a mask, where CPUs have such; else zeros, which do as well.

    One compare of two registers adds to a mask what both have. A sum is NaN if an element is, or infinities are.
    Sums may have as many lanes as what they see.
    """
    has_masks = isinstance(d.element, types.Float) and _has_masks(cpu_target.target_context, ir.FloatType())
    seen = Vector(types.boolean if has_masks else d.element, d.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(seen)
        return ir.Constant(vector, [vector.element(int(has_masks))] * d.lanes)

    return seen(d), codegen


@intrinsic
def see(typingctx: Any, seen: Vector, v: Vector) -> Any:
    """`seen`, and what NaN a vector has, of as many lanes or some times as many."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, vector = args
        if isinstance(v.element, types.Integer):
            return total
        lanes = list(range(v.lanes))
        parts = [_shuffled(builder, vector, vector, lanes[i : i + seen.lanes]) for i in lanes[:: seen.lanes]]
        if seen.element == types.boolean:
            for p, q in zip(parts[::2], parts[1::2] or parts):
                total = builder.and_(total, builder.fcmp_ordered("ord", p, q))
            return total
        while len(parts) > 1:
            parts = [builder.fadd(p, q) for p, q in zip(parts[::2], parts[1::2])]
        return builder.fadd(total, parts[0])

    return seen(seen, v), codegen


@intrinsic
def saw_nan(typingctx: Any, seen: Vector) -> Any:
    """Whether `see` saw a NaN, or, of a sum, infinities of both signs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(seen.element, types.Integer):
            return _I1(False)
        numbers = args[0]
        if isinstance(seen.element, types.Float):
            numbers = builder.fcmp_ordered("ord", numbers, numbers)
        bits = builder.bitcast(numbers, ir.IntType(seen.lanes))
        return builder.icmp_unsigned("!=", bits, bits.type(-1))

    return types.boolean(seen), codegen


@intrinsic
def any_lane(typingctx: Any, mask: Vector) -> Any:
    """Whether the mask is set anywhere."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    return types.boolean(mask), codegen


@intrinsic
def first_lane(typingctx: Any, mask: Vector) -> Any:
    """The first lane in which the mask is set, if it is anywhere."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(mask.lanes))
        bits = builder.zext(bits, ir.IntType(64)) if mask.lanes < 64 else bits
        return builder.cttz(bits, _I1(True))

    return types.intp(mask), codegen


@intrinsic(prefer_literal=True)
def every(typingctx: Any, d: Tag, v: Vector, stride: types.Literal, phase: types.Literal) -> Any:
    """Every `stride`-th lane of `v`, from lane `phase` on, as many as `d` has; those past its end are anything."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = [min(phase.literal_value + stride.literal_value * i, v.lanes - 1) for i in range(d.lanes)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), d.lanes), places)
        return builder.shuffle_vector(args[1], ir.Constant(args[1].type, ir.Undefined), mask)

    return Vector(v.element, d.lanes)(d, v, stride, phase), codegen


def _shuffle(a: Vector, b: Vector, places: list[int]) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), a.lanes), places)
        return builder.shuffle_vector(args[0], args[1], mask)

    return a(a, b), codegen


@intrinsic
def zip_lower(typingctx: Any, a: Vector, b: Vector) -> Any:
    """The lower halves of `a` and `b`, lane by lane in turn."""
    return _shuffle(a, b, [i // 2 + i % 2 * a.lanes for i in range(a.lanes)])


@intrinsic
def zip_upper(typingctx: Any, a: Vector, b: Vector) -> Any:
    """The upper halves of `a` and `b`, lane by lane in turn."""
    return _shuffle(a, b, [a.lanes // 2 + i // 2 + i % 2 * a.lanes for i in range(a.lanes)])


NUMBERS = (types.Integer, types.Float)
Codegen = Callable[[Any, Vector, Any, Any], Any]


def _arithmetic(integers: str, floats: str) -> Codegen:
    """Lane by lane, the LLVM instruction of this name."""
    return lambda builder, v, a, b: getattr(builder, floats if isinstance(v.element, types.Float) else integers)(a, b)


def _compare(sign: str, nan: bool = False) -> Codegen:
    """Lane by lane, a comparison, which is `nan` where either is NaN."""

    def compare(builder: Any, v: Vector, a: Any, b: Any) -> Any:
        if isinstance(v.element, types.Float):
            return (builder.fcmp_unordered if nan else builder.fcmp_ordered)(sign, a, b)
        return (builder.icmp_signed if v.element.signed else builder.icmp_unsigned)(sign, a, b)

    return compare


def _operator(op: Any, result: Callable[[Vector], Vector], codegen: Codegen, *elements: type[types.Type]) -> None:
    """Give Python's operator `op` a meaning for two vectors of one type, made of one of these."""

    @infer_global(op)
    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            a, b = args
            if isinstance(a, Vector) and a == b and isinstance(a.element, elements):
                return result(a)(a, b)
            return None

    @lower_builtin(op, Vector, Vector)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return codegen(builder, signature.args[0], *args)


_operator(operator.add, lambda v: v, _arithmetic("add", "fadd"), *NUMBERS)
_operator(operator.mul, lambda v: v, _arithmetic("mul", "fmul"), *NUMBERS)
_operator(operator.truediv, lambda v: v, lambda builder, v, a, b: builder.fdiv(a, b), types.Float)
_operator(operator.and_, lambda v: v, lambda builder, v, a, b: builder.and_(a, b), types.Boolean, types.Integer)
_operator(operator.or_, lambda v: v, lambda builder, v, a, b: builder.or_(a, b), types.Boolean, types.Integer)
_operator(operator.gt, _mask, _compare(">"), *NUMBERS)
_operator(operator.lt, _mask, _compare("<"), *NUMBERS)
_operator(operator.eq, _mask, _compare("=="), *NUMBERS)


@intrinsic
def greater_or_nan(typingctx: Any, a: Vector, b: Vector) -> Any:
    """The mask of the lanes where a > b or either is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _compare(">", nan=True)(builder, a, *args)

    return _mask(a)(a, b), codegen


@intrinsic
def maximum(typingctx: Any, a: Vector, b: Vector) -> Any:
    """The larger of two elements, lane by lane; NaN where either is. Without masks that outlive it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v, best = args
        # Two instructions on top of x86's maximum, which returns its second argument if either is NaN.
        larger = builder.select(_compare(">")(builder, a, v, best), v, best)
        if isinstance(a.element, types.Float):
            return builder.select(builder.fcmp_unordered("uno", v, v), v, larger)
        return larger

    return a(a, b), codegen
