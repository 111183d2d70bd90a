# A training machine: bags -> datasets -> checkpoints, no ROS. From the top folder of the clone:
#   docker build -f docker/train.Dockerfile -t diwa-train .
# For an NVIDIA GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126, or whatever index suits the driver.
FROM python:3.11.13-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml requirements.lock requirements-torch.txt README.md LICENSE ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock \
    && /opt/venv/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" -r requirements-torch.txt
COPY src src
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .


FROM python:3.11.13-slim-bookworm
# Debian's archive keeps no old versions: a pinned one would not build next month.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*
ARG UID=1000
ARG GID=1000
RUN groupadd --non-unique --gid "${GID}" diwa \
    && useradd --create-home --no-log-init --uid "${UID}" --gid "${GID}" diwa
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH MPLBACKEND=Agg PYTHONUNBUFFERED=1
USER ${UID}:${GID}
WORKDIR /data
RUN diwa --help
ENTRYPOINT ["diwa"]
CMD ["--help"]
