# The image is made from the wheel, not from the tree: what is not in the wheel is not in the image.
#   docker build --tag multiarm:0.1.0 .

FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/multiarm \
    && /opt/multiarm/bin/python -m pip install --constraint constraints.txt /wheels/multiarm-*.whl

FROM python:3.12-slim-bookworm
RUN groupadd --system --gid 10001 multiarm \
    && useradd --system --uid 10001 --gid multiarm --no-create-home --home-dir /var/lib/multiarm --shell /usr/sbin/nologin multiarm \
    && install --directory --owner multiarm --group multiarm --mode 0700 /var/lib/multiarm
COPY --from=build /opt/multiarm /opt/multiarm
# It listens on all addresses, so it does not start without a key: mount a secret and set MULTIARM_JWT_SECRET_FILE.
# The data is in a folder of the volume: the volume's own root may belong to somebody else, or hold lost+found.
ENV PATH=/opt/multiarm/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MULTIARM_HOST=0.0.0.0 \
    MULTIARM_PORT=8080 \
    MULTIARM_DATA_DIR=/var/lib/multiarm/data \
    MULTIARM_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/multiarm
VOLUME /var/lib/multiarm
EXPOSE 8080
# /health/ready, so that whoever waits for it (`compose up --wait`, `depends_on`) waits until experiments are loaded, after
# an upgrade up to ten minutes. Where unhealthy containers are restarted (Swarm), ask /health/live instead: one whose
# database is away for a while still answers draws.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import http.client, os; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['MULTIARM_PORT']), timeout=2); server.request('GET', '/health/ready'); raise SystemExit(server.getresponse().status != 200)"]
ENTRYPOINT ["multiarm"]
CMD ["serve"]
