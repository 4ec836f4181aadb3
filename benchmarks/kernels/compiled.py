"""Compiles a Triton kernel for a GPU that is not there, and reads what it would take of one.

Triton brings its own assemblers; no driver and no device is needed. Registers, spills and shared memory are the
compiler's figures, tensor-core instructions and the widest load are counted in the assembly, and occupancy follows
from the architecture's published limits. Nothing here is a measurement on a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Architecture(NamedTuple):
    """What one multiprocessor (compute unit) of a GPU has, from its vendor's documentation.

    Attributes:
        backend: of Triton, "cuda" or "hip".
        target: what Triton calls the architecture.
        lanes: threads of a warp.
        warps: resident at most.
        blocks: resident at most.
        registers: of 32 bits, in all.
        shared: bytes of shared memory.
        block_shared: bytes of it that one block may have.
    """

    backend: str
    target: int | str
    lanes: int
    warps: int
    blocks: int
    registers: int
    shared: int
    block_shared: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "sm_80": Architecture("cuda", 80, 32, 64, 32, 65_536, 164 << 10, 163 << 10),
    "sm_90": Architecture("cuda", 90, 32, 64, 32, 65_536, 228 << 10, 227 << 10),
    "sm_100": Architecture("cuda", 100, 32, 64, 32, 65_536, 228 << 10, 227 << 10),
    "gfx942": Architecture("hip", "gfx942", 64, 32, 16, 4 * 512 * 64, 64 << 10, 64 << 10),
}

_RESERVED_SHARED = 1 << 10
"""Bytes that CUDA keeps of the shared memory for each block."""

_TENSOR_MEMORY_COLUMNS = 512
"""Columns of tensor memory of a multiprocessor of sm_100; a block's accumulators occupy some of them."""


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    Attributes:
        registers: 32-bit registers of a thread; on AMD those of both files.
        spills: instructions that move a register to or from local memory; on AMD spilled registers.
        shared_bytes: of a block.
        mma: tensor-core instructions in the assembly.
        load_bytes: of the widest load from global memory, per thread.
        occupancy: resident warps over the most that a multiprocessor holds; 0 if one block does not fit.
    """

    registers: int
    spills: int
    shared_bytes: int
    mma: int
    load_bytes: int
    occupancy: float


@dataclass(frozen=True)
class Signature:
    """How a kernel is called, as far as its code depends on it.

    Attributes:
        types: Triton's type of each argument that is given, e.g. `{"a": "*bf16", "P": "i32"}`.
        constants: the constexpr arguments.
        ones: integers that are 1, such as the stride of contiguous elements.
        aligned: integers that are multiples of 16. Pointers always are.

    Any other argument is None.
    """

    types: Mapping[str, str]
    constants: Mapping[str, Any]
    ones: Sequence[str] = ()
    aligned: Sequence[str] = ()


def compiled(kernel: Any, signature: Signature, arch: str, *, warps: int, stages: int) -> Resources:
    """The resources of `kernel`, a `triton.jit` function, compiled for `arch` (of `ARCHITECTURES`).

    Raises:
        RuntimeError: it does not compile, among others because its shared memory is more than the architecture has.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    machine = ARCHITECTURES[arch]
    target = GPUTarget(machine.backend, machine.target, machine.lanes)
    options = {"num_warps": warps, "num_stages": stages}
    try:
        binary = triton.compile(_source(kernel, signature), target=target, options=options)
    except Exception as error:  # each stage of Triton's compiler has exceptions of its own
        raise RuntimeError(f"does not compile: {' '.join(str(error).split())[:200]}") from error
    shared = int(binary.metadata.shared)
    if machine.backend == "hip":
        registers, spills, mma, load = _amd(binary.asm["amdgcn"])
    else:
        registers, spills, mma, load = _nvidia(binary.asm["cubin"])
    tensor_memory = int(getattr(binary.metadata, "tmem_size", None) or 0)
    resident = occupancy(arch, registers, shared, int(binary.metadata.num_warps), tensor_memory)
    return Resources(registers, spills, shared, mma, load, resident)


def occupancy(arch: str, registers: int, shared: int, warps: int, tensor_memory: int = 0) -> float:
    """Resident warps over the most possible, for blocks of `warps` warps.

    Args:
        arch: of `ARCHITECTURES`.
        registers: of a thread.
        shared: bytes of a block.
        warps: of a block.
        tensor_memory: columns of a block (sm_100).
    """
    machine = ARCHITECTURES[arch]
    nvidia = machine.backend == "cuda"
    per_warp = -(-max(registers, 1) * machine.lanes // 256) * 256 if nvidia else -(-max(registers, 1) // 8) * 8 * 64
    limits = [machine.blocks, machine.warps // warps, machine.registers // per_warp // warps]
    if shared:
        limits.append(machine.shared // (shared + (_RESERVED_SHARED if nvidia else 0)))
    if tensor_memory:
        limits.append(_TENSOR_MEMORY_COLUMNS // tensor_memory)
    if shared > machine.block_shared:
        limits.append(0)
    return min(limits) * warps / machine.warps


def _source(kernel: Any, signature: Signature) -> Any:
    from triton.compiler import ASTSource

    types: dict[str, str] = {}
    constants: dict[str, Any] = dict(signature.constants)
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for position, name in enumerate(kernel.arg_names):
        kind = signature.types.get(name)
        types[name] = "constexpr"
        if name in signature.ones:
            constants[name] = 1
        elif kind is None:
            constants.setdefault(name, None)
        else:
            types[name] = kind
            if kind.startswith("*") or name in signature.aligned:
                attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, types, constants, attributes)


def _nvidia(cubin: bytes) -> tuple[int, int, int, int]:
    """Registers, spills, tensor-core instructions and bytes of the widest global load of a CUDA binary."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        code = _output(knobs.nvidia.nvdisasm.path, "-c", file.name)
    found = re.search(r"REG:(\d+)", usage)
    if found is None:
        raise RuntimeError("cuobjdump printed no registers")
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code))
    # HMMA on sm_80, HGMMA (of a whole warp group) on sm_90, UTCHMMA (of the tensor memory) on sm_100.
    mma = len(re.findall(r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b", code))
    bits = [int(width or 32) for width in re.findall(r"\bLDG(?:STS)?\.E(?:\.(?!64|128)\w+)*(?:\.(64|128))?", code)]
    if re.search(r"\b(?:UTMALDG|UBLKCP)\b", code):
        bits.append(128)
    return int(found.group(1)), spills, mma, max(bits, default=0) // 8


def _amd(code: str) -> tuple[int, int, int, int]:
    """Registers, spills, matrix instructions and widest load, in bytes, of AMD's assembly."""

    def figure(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", code)
        return int(found.group(1)) if found else 0

    registers = figure("vgpr_count")  # of the unified file: accumulation registers are among them
    spills = figure("vgpr_spill_count") + figure("sgpr_spill_count")
    mma = len(re.findall(r"\bv_s?mfma\w*", code))
    loads = re.findall(r"\b(?:global|buffer)_load_(dwordx4|dwordx3|dwordx2|dword|[us]short|ubyte)", code)
    size = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "sshort": 2, "ubyte": 1}
    return registers, spills, mma, max((size[load] for load in loads), default=0)


def _output(*command: str) -> str:
    done = subprocess.run([*command], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()[:200]}")
    return done.stdout
