"""A Ray cluster to work on: the one that is named, or one of this machine alone."""

from __future__ import annotations

import logging
from typing import Any

from spectra.errors import InputError


def connect(address: str = "", cpus: int = 0) -> Any:
    """The module `ray`, connected.

    Args:
        address: of a cluster; a Ray of this machine alone is started by default.
        cpus: how many of this machine's cores that one has; all by default.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'spectra-diffusion[ray]'") from error
    cores = {"num_cpus": cpus} if cpus and not address else {}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    try:
        ray.init(address=address or "local", **cores, **quiet)
    except Exception as error:  # Ray raises kinds of its own
        raise InputError(f"no Ray cluster at {address or 'this machine'} ({error}); see `ray status`") from error
    return ray


def gpu_each(ray: Any, device: str, least: int = 1) -> dict[str, int]:
    """What a worker asks Ray for: a GPU, unless it is to use none or the cluster has fewer than `least`."""
    return {"num_gpus": 1} if device != "cpu" and ray.cluster_resources().get("GPU", 0) >= least else {}
