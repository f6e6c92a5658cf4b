"""A module as a source made it becomes one that can be exported and run on the CPU."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from runtime.errors import ExportError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def ready_module(module: nn.Module) -> nn.Module:
    """Unwrapped, on the CPU and in eval mode, as factories seldom give it.

    Raises:
        ExportError: It is a TorchScript module, has parameters without values, or floats
            other than float32.
    """
    module = unwrapped(module)
    for path, inner in module.named_modules():
        if isinstance(inner, torch.jit.ScriptModule):
            which = f"module '{path}'" if path else "the module"
            raise ExportError(
                f"{which} is TorchScript, which "
                "torch.export does not take; give the Python module that it was made from"
            )
    _check_tensors(module)
    return module.cpu().eval()


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, _WRAPPERS):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _check_tensors(module: nn.Module) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ExportError(
                f"'{name}' of the module has no shape yet; call it once in the factory"
            )
        if tensor.is_meta:
            raise ExportError(
                f"'{name}' of the module is on the meta device and has no values; "
                "make it on the CPU in the factory"
            )
    for name, value in module.state_dict().items():
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        if floats and value.dtype is not torch.float32:
            raise ExportError(
                f"'{name}' of the module is {str(value.dtype)[6:]}; wanted float32: "
                "call .float() on it"
            )
