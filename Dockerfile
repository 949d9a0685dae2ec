# The command line and the service, for a CPU or for an NVIDIA GPU:
#
#   docker build --target cpu --build-arg PIP_EXTRA_INDEX_URL=URL --tag colbert-rerank:cpu .
#   docker build --target cuda --tag colbert-rerank:cuda .
#
# PIP_EXTRA_INDEX_URL is the index of PyTorch's wheels for CPUs, as its installation page names it: the image is then a tenth of
# the size. Without it torch comes with CUDA's libraries, which run on a CPU, too.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md CHANGELOG.md LICENSE ./
COPY mappings mappings
COPY ingest ingest
COPY colbert_rerank colbert_rerank
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm AS cpu
ARG PIP_EXTRA_INDEX_URL=
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt \
    "colbert-rerank[aws,elasticsearch,onnx,pages,pooling,serve] @ file://$(ls /wheels/*.whl)"
# The user of OpenSearch's image has this number too, and docker-compose.yml reads what is its.
RUN useradd --uid 1000 --create-home app && install --directory --owner app /stores /models /ca
# Models from the hub are kept in /models; behind an air gap, put them there and set HF_HUB_OFFLINE=1.
ENV HF_HOME=/models PYTHONUNBUFFERED=1
USER app
WORKDIR /stores
VOLUME ["/stores", "/models"]
EXPOSE 8080
ENTRYPOINT ["colbert-rerank"]

FROM cpu AS cuda
# Triton compiles a launcher for its kernels with the C compiler that it finds, and loads it from its cache: a folder that
# can be written and executed from, which /home and a tmpfs by itself are not in docker-compose.yml.
USER root
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner app /triton
ENV TRITON_CACHE_DIR=/triton
USER app
