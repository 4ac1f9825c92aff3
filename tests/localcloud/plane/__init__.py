"""The packet plane: one namespace per instance and host, a router that follows the described route tables. See README.md."""

from __future__ import annotations

from typing import Any


def create(cloud: Any) -> Any:
    """The plane of one run of the local cloud (`localcloud.plane_api.Cloud` -> `localcloud.plane_api.Plane`)."""
    from .plane import PacketPlane

    return PacketPlane(cloud)
