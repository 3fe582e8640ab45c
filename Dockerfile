# The gateway without embedded databases. Not executed in this repository's CI, which has no container engine;
# tests/unit/test_run.py compares the package list with pyproject.toml.

FROM python:3.13-slim AS packages
WORKDIR /build
COPY requirements.lock .
# What pyproject.toml's `dependencies` come to, picked out of the one lock with their hashes.
ARG RUNTIME="aiohappyeyeballs aiohttp aiosignal asyncpg attrs cffi click cryptography frozenlist idna msgspec multidict \
    orjson prometheus-client propcache pycparser redis segno structlog uvloop yarl"
RUN awk -v names="$RUNTIME" \
        'BEGIN { split(names, list, /[ \n]+/); for (i in list) wanted[list[i]] } \
         /^[a-z]/ { split($0, name, "=="); keep = name[1] in wanted } \
         keep' requirements.lock > runtime.lock \
    && python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes --no-deps --requirement runtime.lock

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin holdfast
COPY --from=packages /venv /venv
WORKDIR /app
COPY LICENSE ./
COPY actors actors/
COPY channels channels/
COPY gateway gateway/
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    HOLDFAST_ENV=prod HOLDFAST_SERVER__HOST=0.0.0.0 HOLDFAST_SERVER__PORT=8080
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['HOLDFAST_SERVER__PORT']}/livez\", timeout=2)"]
ENTRYPOINT ["python", "-P", "-m", "gateway"]
CMD ["serve"]
