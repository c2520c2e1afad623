"""The Ray cluster that a server's edits run on: its connection, its deployment, its health."""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, LoggingConfig

import sfumato
from sfumato.errors import EditError, ResourceError
from sfumato.jobs.engine import SHARED
from sfumato.server.failures import Refused
from sfumato.server.ray_engine import RayEngine
from sfumato.server.replicas import Replica
from sfumato.server.settings import Cluster, Settings
from sfumato.server.worker import MakeEditor

log = logging.getLogger("sfumato.server")

APPLICATION = "sfumato"
STATUS_SECONDS = 10.0  # that a running deployment may take to say what it is
QUIET = LoggingConfig(log_level="WARNING")


class RayCluster:
    """Replicas on Ray Serve, behind one engine that all workers of a server share.

    Args:
        settings: The operator's choices; `settings.cluster` is given.
        make_editor: Loads a model in a replica.

    Raises:
        ResourceError: ray-unavailable.
    """

    def __init__(self, settings: Settings, make_editor: MakeEditor) -> None:
        assert settings.cluster is not None
        self._cluster = settings.cluster
        self._own = connect(self._cluster)
        self._gpus = 0 if (settings.devices[0] or "").startswith("cpu") else int(ray.cluster_resources().get("GPU", 0))
        self.replicas = self._cluster.max_replicas or self._cluster.replicas or max(1, self._gpus)
        self.share = settings.share or (SHARED if self._gpus else 1)
        self._settings = replace(settings, tokens=(), database=None, share=self.share)  # no secrets leave this process
        self._make_editor = make_editor
        self._handle: DeploymentHandle | None = None
        self._deploying = threading.Lock()
        self.engine = RayEngine(self.handle, several=len(settings.models) > 1)

    def handle(self) -> DeploymentHandle:
        """The deployment's handle; waits until its replicas hold the default model.

        Raises:
            RuntimeError: They cannot be started.
        """
        with self._deploying:
            if self._handle is None:
                self._handle = self._running() or self._deploy()
            return self._handle

    def _deploy(self) -> DeploymentHandle:
        """Start the replicas, or replace those that are there one after the other, each when it has ended its edits."""
        deployment = serve.deployment(
            name="Replica",
            max_ongoing_requests=self.share + 1,  # and one for what else is asked of it, as previews
            graceful_shutdown_timeout_s=self._settings.limits.job_seconds,
            ray_actor_options=self._resources(),
            logging_config=QUIET,
            **self._scale(),
        )(Replica)
        application = deployment.bind(self._settings, self._make_editor, self._fingerprint())
        return serve.run(application, name=APPLICATION, route_prefix=None, logging_config=QUIET)

    def _running(self) -> DeploymentHandle | None:
        """The handle of replicas that another server, or this one before, has started alike."""
        found = serve.status().applications.get(APPLICATION)
        if found is None or found.status != ApplicationStatus.RUNNING:
            return None
        handle = serve.get_app_handle(APPLICATION)
        alike = handle.fingerprint.remote().result(timeout_s=STATUS_SECONDS) == self._fingerprint()
        return handle if alike else None

    def _scale(self) -> dict[str, Any]:
        if self._cluster.max_replicas is None:
            return {"num_replicas": self.replicas}
        limits = {"min_replicas": self._cluster.min_replicas or 1, "max_replicas": self.replicas}
        return {"autoscaling_config": AutoscalingConfig(**limits, target_ongoing_requests=self.share)}

    def _resources(self) -> dict[str, float]:
        """Of each replica: a GPU and a core, or its part of the cores; Ray has PyTorch use as many threads."""
        if self._gpus:
            return {"num_gpus": 1, "num_cpus": 1}
        cores = ray.cluster_resources().get("CPU", 1.0)
        largest = max(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
        part = cores / self.replicas
        return {"num_cpus": min(largest, float(int(part))) if part >= 1 else int(100 * part) / 100}

    def _fingerprint(self) -> str:
        """Of what the replicas do; where this server listens does not change it."""
        same = replace(self._settings, data=Path(), host="", port=0, hosts=(), origins=(), aliases={})
        return hashlib.sha256(repr((sfumato.__version__, same)).encode()).hexdigest()

    def problem(self) -> EditError | None:
        """Why no edit can be run now, if so."""
        try:
            found = serve.status().applications.get(APPLICATION)
        except Exception as error:
            log.error("Ray does not answer", exc_info=error)
            found = None
        states = [] if found is None else [each.replica_states for each in found.deployments.values()]
        running = sum(count for counts in states for state, count in counts.items() if state == "RUNNING")
        if running:
            return None
        return Refused("No replica runs at the moment; edits wait for one.", code="no-replica", status=503, retry_after=5)

    def close(self) -> None:
        """End the replicas and Ray, if this server started them; else leave them to the next server."""
        if self._own:
            serve.shutdown()
            ray.shutdown()


def connect(cluster: Cluster) -> bool:
    """Connect to Ray, or start one on this machine; whether this server started it.

    Raises:
        ResourceError: ray-unavailable.
    """
    if not ray.is_initialized():
        options: dict[str, Any] = {"address": cluster.address}
        if cluster.address is None:
            options = {"address": "local", "include_dashboard": False}
        try:
            ray.init(logging_level=logging.WARNING, namespace=APPLICATION, **options)
        except Exception as error:
            where = f"the Ray cluster at {cluster.address}" if cluster.address else "Ray on this machine"
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ResourceError(f"{where} cannot be used ({reason}).", code="ray-unavailable") from error
        own = cluster.address is None
    else:
        own = False
    serve.start(proxy_location="Disabled", logging_config=QUIET)  # it opens no port for HTTP: this server has its own
    return own
