# syntax=docker/dockerfile:1
# The gateway as an image: wheels are built in the first stage, the second has no compiler.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py requirements.lock README.md LICENSE ./
COPY kairos kairos
# versions of the lock file; its hashes are for files, and here wheels are built
RUN sed -nE 's/^([A-Za-z0-9_.-]+(\[[^]]*\])?==[^ ;\\]+).*/\1/p' requirements.lock > /versions.txt \
    && pip wheel --no-cache-dir --wheel-dir /wheels --constraint /versions.txt .

FROM ${BASE}
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels --no-compile kairos-gateway \
    && useradd --system --uid 5900 --no-create-home --shell /usr/sbin/nologin kairos \
    && install -d -m 0700 -o 5900 -g 5900 /var/lib/kairos
ENV KAIROS_CONFIG_PATH=/etc/kairos/config.json KAIROS_STATE_DIR=/var/lib/kairos PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 5900:5900
EXPOSE 5900 5943
# revisions, what operators set, the admin socket
VOLUME /var/lib/kairos
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('KAIROS_PORT') or 5900}/live\", timeout=2)"]
ENTRYPOINT ["kairos-gateway"]
