# CardioTune's server. Two images: `docker build --target cpu .` and `docker build --target cuda .`
# They hold the program and no weights: a run (or an export) and the base model are mounted, read-only. See docs/serving.md.
# To pin the base image to its bytes as well: --build-arg PYTHON=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/cardiotune
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY src src

FROM source AS build-cpu
# PyTorch without CUDA is five gigabytes smaller.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/cardiotune/bin/pip install --constraint constraints.txt --index-url "${TORCH_INDEX}" torch \
 && /opt/cardiotune/bin/pip install --constraint constraints.txt '.[serve]'

FROM source AS build-cuda
# PyPI's PyTorch brings its CUDA libraries along; the host needs the driver and the NVIDIA container toolkit.
RUN /opt/cardiotune/bin/pip install --constraint constraints.txt '.[serve,qlora]'

FROM ${PYTHON} AS runtime
RUN groupadd --gid 10001 cardiotune \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cardiotune
# libgomp: LightGBM and PyTorch compute with OpenMP.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/cardiotune/bin:${PATH} \
    HF_HOME=/weights/huggingface \
    CARDIOTUNE_CACHE=/weights/cardiotune \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["cardiotune"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8000", "--api-key-file", "/run/secrets/api_keys"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/cardiotune /opt/cardiotune

# The last stage is what `docker build .` makes.
FROM runtime AS cpu
COPY --from=build-cpu /opt/cardiotune /opt/cardiotune
