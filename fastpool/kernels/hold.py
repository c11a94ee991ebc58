"""Hold results back that are far from any cache, and write them past the caches in long runs.

What is written there is read first, line by line, and evicts what is needed; past the caches it does neither. That
spares up to a third of the time of kernels that write more than they read, for a store and a load of every element
in L1.
"""

from __future__ import annotations

from pathlib import Path

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import AXES

#: What has so many bytes is far from the caches that a core has for itself.
FAR = 1 << 23
#: So many bytes of new memory are pages that the system clears: of fewer, the C library has some that were used.
CLEARED = 1 << 25
#: So many elements are held back: stores wait for those before, so that of four times as many, nothing is computed
#: meanwhile; it takes 1.1 to 1.3 times as long. Two thirds to four thirds take the same, a third up to 1.4.
HELD = 3 << 8


def _last_cache() -> int:
    """Return the bytes of the last cache, which cores share, where Linux tells; else 0."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return 0


#: So much of the last cache is taken to be there for a call: others share it, often other machines. Of 32 MiB, three
#: quarters: calls that touch 16 MB take up to 1.2 times as long past it, those of 32 MB .8 to 1. Of 300 MiB, a seventh:
#: backward calls that touch 34 MB take 1.2 to 1.5 times as long past it, those of 67 MB .6 to 1 on one thread, of 100
#: MB on two. `unfold` and `fold` of 48 MB take .4 to .8 of the time past it into a given result, and into a new one on
#: one thread; `fold` into a new one takes up to 1.3 times as long on two.
SHARE = min(_last_cache() * 3 // 4, 43 << 20)


def far(nbytes: int, touched: int, new: bool) -> bool:
    """Whether a result of so many bytes is far from any cache, in a call that reads and writes so many.

    It is not if it is new memory, the pages of which are cleared as they are come to, and so are in one. Written past
    that, what was cleared goes to memory, too, which takes 1.1 to 1.4 times as long.
    """
    return nbytes >= FAR and touched >= SHARE and not (new and nbytes >= CLEARED)


@inline
def is_far(geometry):
    """Whether `far` said so of the result of this call."""
    return geometry[AXES] != 0


@inline
def write_held(result, to, held, count, far):
    """Write what is held back, past the caches if it is far from them."""
    if far:
        simd.stream(result, to, held, 0, count)
    else:
        simd.copy(result, to, held, 0, count)


@inline
def make_room(result, held, held_from, into, count, room, far):
    """Return where in the result what is held begins: at `into`, if `count` more have no room and those before go.

    Of what is far, the elements of a cache line that is not whole stay, beyond that room, as it would be read to be
    written to in part; behind what is held, a vector can be read.
    """
    if into + count - held_from > room:
        held_count = into - held_from
        rest = min(held_count, simd.within_line(simd.offset(result, into))) if far else 0
        write_held(result, held_from, held, held_count - rest, far)
        if rest > 0:
            simd.to_front(held, held_count - rest)
        held_from = into - rest
    return held_from


@inline
def hold_row(result, held, held_from, held_to, into, count, room):
    """Do that for `count` elements at `into`, of what is far; where what is held does not end there, all of it goes."""
    if into != held_to:
        write_held(result, held_from, held, held_to - held_from, True)
        held_from = into
    return make_room(result, held, held_from, into, count, room, True)
