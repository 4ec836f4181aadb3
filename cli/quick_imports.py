"""What a process that only plans leaves out of torch, diffusers and transformers: it takes longer than counting.

A model's shapes need no compiler, no distributed training and no quantisers. torch's compiler is imported by diffusers
for decorators, and by each shape that PyTorch computes in Python.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_QUANTISERS = ("bitsandbytes", "peft", "torchao")


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Within the block diffusers and transformers do without; nothing changes where diffusers is there already.

    What they take as missing they take so for good: for a process that does nothing else.
    """
    if "diffusers" in sys.modules:
        yield
        return
    with without(*_QUANTISERS), _no_distributed(), _no_compiler():
        yield


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Within the block these packages are not installed: where diffusers has not looked for them, and none has them."""
    find = importlib.util.find_spec
    hidden = [name for name in names if name not in sys.modules and "diffusers" not in sys.modules]

    def found(name: str, package: str | None = None) -> Any:
        return None if name.partition(".")[0] in hidden else find(name, package)

    importlib.util.find_spec = found
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: to import one is an error
    try:
        yield
    finally:
        importlib.util.find_spec = find
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _no_distributed() -> Iterator[None]:
    import torch.distributed

    there = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = there


@contextlib.contextmanager
def _no_compiler() -> Iterator[None]:
    """In place of `torch._dynamo` stand decorators that leave a function as it is; its parts can be imported."""
    import torch

    name = "torch._dynamo"
    if name in sys.modules:
        yield
        return
    stand_in: Any = ModuleType(name)
    stand_in.__path__ = [f"{place}/_dynamo" for place in torch.__path__]
    stand_in.allow_in_graph = stand_in.assume_constant_result = _same
    stand_in.disable = lambda function=None, *_, **__: _same if function is None else function
    holder: Any = torch
    sys.modules[name] = holder._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules[name], holder._dynamo


def _same(function: Any) -> Any:
    return function
