"""What Ray reads from the environment when it is imported."""

import os
import secrets
import sys


def secure_ray(*, own: bool) -> None:
    """Keep Ray from reporting its use, and keep others out of a Ray of this process: its ports are open to the network.

    What the operator has set stays. Without effect once Ray has been imported.

    Args:
        own: Whether Ray is to be started by this process; a cluster that exists has its own token.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if own and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
