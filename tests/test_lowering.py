"""What LLVM makes of the kernels: vectors, on CPUs that need not be this one. None of it is run."""

import json
import platform
import re
from functools import cache

import pytest
from jobs import run

#: Calls on x: (1, 2, 60, 60), dy: (1, 2, 30, 30) and argmax. All kernels that they need are looked at.
MAXIMA = {
    "max": "max_pool2d(x, 3, 2, 1)",
    "max at stride 3": "max_pool2d(x, 3)",
    "argmax": "max_pool2d(x, 3, 2, 1, return_argmax=True)",
}
CALLS = {
    **MAXIMA,
    "max one apart": "max_pool2d(x, 3, 1, 1, return_argmax=True)",
    "average one apart": "avg_pool2d(x, 3, 1, 1)",
    "large max": "max_pool2d(x, 9, 1)",
    "high max": "max_pool2d(x, 9, 1, 4)",
    "wide max": "max_pool2d(x, 12)",
    "max of small maps": "max_pool2d(np.zeros((64, 7, 7), np.float32), 3, 2, 1)",
    "max of pixels": "max_pool2d(x, 2, 1, data_format='channels_last')",
    "backward": "max_pool2d_backward(dy, argmax, x.shape, 2)",
    "backward at stride 1": "max_pool2d_backward(x, np.zeros(x.shape, np.uint8), x.shape, 3, 1, 1)",
    "backward at stride 3": "max_pool2d_backward(dy, argmax, (1, 2, 90, 90), 3)",
    "average": "avg_pool2d(x, 3, 2, 1)",
    "average backward": "avg_pool2d_backward(dy, x.shape, 2)",
    "im2col": "im2col(x, 3)",
    "col2im": "col2im(np.zeros((18, 3364)), x.shape, 3)",
    "col2im of windows side by side": "col2im(np.zeros((8, 900)), x.shape, 2, stride=2)",
}
#: What NEON computes a vector at a time.
NEON = {
    "max": ["fcmgt v", "bit v|bif v|bsl v"],
    "argmax": ["fcmgt v", "bit v|bif v|bsl v"],
    "max one apart": ["fcmgt v", "cmeq v"],
    "average one apart": ["cmeq v", "fadd v"],
    "high max": ["fcmgt v", "bit v|bif v|bsl v"],
    "wide max": ["fcmgt v", "bit v|bif v|bsl v"],
    "max of small maps": ["zip1 v", "fcmgt v"],
    "backward": ["cmeq v", "fadd v"],
    "backward at stride 1": ["cmeq v", "fadd v"],
    "average": ["fadd v"],
    "col2im": ["fadd v"],
}
COMPILE = """
import json
from numba.core.codegen import CPUCodeLibrary
from fastpool.kernels.launch import Compiled, Kernel

finalize = CPUCodeLibrary._finalize_final_module

def keep_ir(library):
    # As it is before it is made machine code, which changes it to what one CPU can do.
    library.ir = library.get_llvm_str()
    finalize(library)

compiled = Kernel._compiled

def only_compile(kernel, dtypes):
    compiled(kernel, dtypes)
    *_, overload = kernel._serial.overloads.values()
    kernels.append((overload.library.get_asm_str(), overload.library.ir))
    return Compiled(lambda *arguments: None, 0)

CPUCodeLibrary._finalize_final_module = keep_ir
Kernel._compiled = only_compile

x = X[:1, :2]
dy = x[..., ::2, ::2]
argmax = np.zeros(dy.shape, np.uint8)
results = {}
for name, call in CALLS.items():
    kernels = results[name] = []
    eval("fastpool." + call)
with open(FILE, "w") as file:
    json.dump(results, file)
"""
COMPILE_FOR_AARCH64 = """
import json, re
import llvmlite.binding as llvm

TRIPLE = "aarch64-unknown-linux-gnu"
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
try:
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu="generic", opt=3)
except RuntimeError as error:
    print(json.dumps(str(error)))
    sys.exit()

def assembly(ir):
    for name, value in (("datalayout", machine.target_data), ("triple", TRIPLE)):
        ir = re.sub(f"(?m)^target {name} = .*$", f'target {name} = "{value}"', ir)
    # Numba's runtime has been made machine code before: a call takes the place of its atomic operations.
    ir = ir.replace("@llvm.x86.", "@x86.").replace(" immarg", "")
    return machine.emit_assembly(llvm.parse_assembly(ir))

with open(FILE) as file:
    compiled = json.load(file)
print(json.dumps({call: "".join(assembly(ir) for _, ir in kernels) for call, kernels in compiled.items()}))
"""
AVX2, AVX512 = "haswell", "skylake-avx512"
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A file of the assembly and the IR of every call's kernels, for an x86 CPU, or for this one if None."""

    @cache
    def compiled(cpu):
        directory = tmp_path_factory.mktemp("kernels")
        file = directory / "compiled"
        environment = {
            "NUMBA_CPU_NAME": cpu,
            "NUMBA_CPU_FEATURES": cpu and "",  # those of that CPU, not of this one
            "NUMBA_CACHE_DIR": directory,  # kernels in a cache have no IR any more
        }
        calls = MAXIMA if cpu == AVX512 else CALLS
        run(f"CALLS, FILE = {calls}, {str(file)!r}\n{COMPILE}", timeout=500, **environment)
        return file

    return compiled


@pytest.fixture(scope="module")
def aarch64(compiled):
    """The assembly for aarch64 of the kernels of every call."""
    file = compiled(AVX2 if X86 else None)
    assembly = json.loads(run(f"FILE = {str(file)!r}\n{COMPILE_FOR_AARCH64}"))
    return pytest.skip(assembly) if isinstance(assembly, str) else assembly


def blocks(assembly):
    """The instructions between labels and jumps."""
    return re.split(r"^(?:\S+:|\tj\w+\t).*$", assembly, flags=re.MULTILINE)


@pytest.mark.skipif(not X86, reason="not an x86 CPU")
@pytest.mark.parametrize(
    ("cpu", "register", "call"),
    [*((AVX2, "ymm", call) for call in CALLS), *((AVX512, "zmm", call) for call in MAXIMA)],
)
def test_x86(compiled, cpu, register, call):
    assembly = "\n".join(assembly for assembly, _ in json.loads(compiled(cpu).read_text())[call])
    assert re.search(rf"\tvmov\w+\t.*\), %{register}", assembly)
    assert re.search(rf"\tvmov\w+\t%{register}\d+, .*\)", assembly)
    # Floats lane by lane.
    assert not re.search(r"\tv(insertps|extractps|(max|min|cmp\w*)ss)\t", assembly)
    if call in MAXIMA:
        compare = rf"\tv(max|cmp\w*)ps\t.*%{register}"
        comparing = [block for block in blocks(assembly) if re.search(compare, block)]
        assert any(re.search(rf"\tv(max|blend\w*)ps\t.*%{register}", block) for block in comparing)
        for block in comparing:
            assert not re.search(r"\t(call\w*|vu?comiss|vp(insr|extr)[bwdq])\t", block)


@pytest.mark.parametrize("call", CALLS)
def test_aarch64(aarch64, call):
    for instruction in ("ld[rp] q", "st[rp] q", *NEON.get(call, ())):
        pattern = "|".join(rf"\t{choice}\d" for choice in instruction.replace(" ", r"\t").split("|"))
        assert re.search(pattern, aarch64[call]), instruction
