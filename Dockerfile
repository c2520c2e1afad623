# sfumato in a container: the server, the command line, and a node of a Ray cluster.
#
#   docker build --tag sfumato .                        for CPUs
#   docker build --tag sfumato:cuda --build-arg DEVICE=cuda .   for NVIDIA GPUs; run it with --gpus all
#
# There is no secret in it: give SFUMATO_TOKEN and SFUMATO_DATABASE when it is run. See docs/batch.md.

FROM python:3.12.12-slim-bookworm AS build
ARG DEVICE=cpu
# Index of PyTorch's builds for CPUs, which are a tenth of the size; those on PyPI bring CUDA, and run on CPUs too.
ARG CPU_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/sfumato
COPY constraints.txt /src/
# Apart from the package, so that a change of its code leaves this layer as it is.
RUN case "$DEVICE" in \
      cpu) /opt/sfumato/bin/pip install --constraint /src/constraints.txt ${CPU_INDEX:+--index-url "$CPU_INDEX"} torch ;; \
      cuda) /opt/sfumato/bin/pip install --constraint /src/constraints.txt torch ;; \
      *) echo "DEVICE is cpu or cuda" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN /opt/sfumato/bin/pip install --constraint /src/constraints.txt "/src[batch,postgresql,ray,server]" s3fs gcsfs

FROM python:3.12.12-slim-bookworm
# tini passes signals on; KubeRay's probes call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home sfumato \
    && install --directory --owner=sfumato --group=sfumato /data /models
COPY --from=build /opt/sfumato /opt/sfumato
ENV PATH=/opt/sfumato/bin:$PATH HF_HOME=/models PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 7860
# Not ready while the model is loaded. In a node of a Ray cluster, Ray's own probes are asked instead.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/readyz', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["sfumato", "serve", "--host", "0.0.0.0", "--data", "/data"]
