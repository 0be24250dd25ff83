"""Whether this host is one of several of a Cloud TPU slice: plain TPU VMs say so in their metadata, not in the
environment. Knows no jax."""

import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")  # of TPU chips, below /dev


def is_pod(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev"), seconds: float = 5.0) -> bool:
    """Whether the metadata of this TPU VM name several workers.

    Args:
      environment: `TPU_SKIP_MDS_QUERY` says that there is no metadata server to ask, `GCE_METADATA_IP` where it is.
      devices: where device files are.
      seconds: to wait for the metadata server.

    Returns:
      False where libtpu is not installed, there is no chip, or nobody answers.
    """
    if environment.get("TPU_SKIP_MDS_QUERY") or importlib.util.find_spec("libtpu") is None:
        return False
    if not any(any(devices.glob(pattern)) for pattern in _DEVICES):
        return False
    host = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return "," in answer.read().decode()
    except (urllib.error.URLError, OSError):
        return False
