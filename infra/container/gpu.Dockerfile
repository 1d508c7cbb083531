# manymodal on NVIDIA GPUs: the driver comes from the node (NVIDIA container toolkit), CUDA with the wheels of torch.
# Build at the root of the repository:
#   docker build -f infra/container/gpu.Dockerfile -t REGISTRY/manymodal:0.1.0-gpu .
FROM python:3.11.13-slim-bookworm AS build

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python -m venv /opt/manymodal && \
    /opt/manymodal/bin/pip install --no-cache-dir -c constraints.txt torch==2.13.0
COPY labelers labelers
COPY pipeline pipeline
COPY tokenize_shards tokenize_shards
COPY trainer trainer
RUN /opt/manymodal/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11.13-slim-bookworm

# KubeRay's probes call wget.
RUN apt-get update && \
    apt-get install -y --no-install-recommends wget=1.21.3-* && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 1000 --create-home ray && \
    install -d -o ray -g ray /cache
COPY --from=build /opt/manymodal /opt/manymodal
ENV PATH=/opt/manymodal/bin:$PATH \
    MANYMODAL_CACHE=/cache \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /home/ray
CMD ["manymodal", "doctor"]
