# manymodal on CPU machines. Build at the root of the repository:
#   docker build -f infra/container/cpu.Dockerfile -t REGISTRY/manymodal:0.1.0-cpu .
FROM python:3.11.13-slim-bookworm AS build

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python -m venv /opt/manymodal && \
    /opt/manymodal/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt torch==2.13.0+cpu
COPY labelers labelers
COPY pipeline pipeline
COPY tokenize_shards tokenize_shards
COPY trainer trainer
RUN /opt/manymodal/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt .

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
    RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /home/ray
CMD ["manymodal", "doctor"]
