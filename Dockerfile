# One image for all three programs; the manifest says which one runs. Not built by the tests: they run the programs
# themselves, with the same locked dependencies.
#
# A build that must be the same tomorrow names the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /src
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
# What builds is locked as well, and stays behind: a venv brings whatever setuptools its Python was released with.
RUN python -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY warmhook warmhook
COPY adapters adapters
COPY handlers handlers
COPY nodeagent nodeagent
COPY devcluster devcluster
COPY cli cli
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && /venv/bin/pip install --no-cache-dir --no-deps --no-index /dist/*.whl

FROM ${BASE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Libraries ask for the user's name and home.
RUN groupadd --gid 65532 nonroot \
    && useradd --uid 65532 --gid 65532 --home-dir /home/nonroot --create-home --shell /usr/sbin/nologin nonroot
# The agent needs the runtime's socket, which belongs to root: its manifest sets runAsUser 0.
USER 65532
CMD ["python", "-m", "handlers", "--watch"]
