# syntax=docker/dockerfile:1
# The server without torch, for linux/amd64 and linux/arm64. See docs/operations.md.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE WEIGHTS-LICENSE ./
COPY src src
# The environment is compiled here, since the root file system of the container is read-only.
RUN python -m venv /opt/mien \
 && /opt/mien/bin/pip install --no-cache-dir ".[serve]"

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mien
COPY --from=build /opt/mien /opt/mien
ENV PATH=/opt/mien/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["mien"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--api-keys", "/run/secrets/mien-keys"]
