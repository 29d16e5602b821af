# One image for all three programs; the manifest says which one runs. It holds the programs only: no demo, no pip.
# Tests run the steps below except the downloads, and start every program from what they leave.
#
# A build that must be the same tomorrow names the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /src
COPY requirements.txt requirements-build.txt ./
# What installs and builds is locked as well, and stays behind.
RUN python -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.txt
RUN python -m venv --without-pip /venv
RUN /build/bin/pip --python /venv install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY warmhook warmhook
COPY adapters adapters
COPY handlers handlers
COPY nodeagent nodeagent
COPY cli/*.py cli/
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && /build/bin/pip --python /venv install --no-cache-dir --no-deps --no-index /dist/*.whl
# What no program reads: the generated API of the kubernetes client, compilers of C, time zones (the base has them),
# authorities for gRPC over TLS, pydantic's old self, lists of files that are not all there any more, tests, and sources
# of what is compiled.
# The kubernetes client and what only it imports read kubeconfigs that need a plugin, as source code.
RUN cd /venv/lib/python3*/site-packages \
    && rm -r kubernetes/client/api kubernetes/aio/client/api cffi pycparser tzdata grpc/_cython/_credentials pydantic/v1 \
        *.dist-info/RECORD */tests \
    && find kubernetes -path '*/models/*' ! -name '__init__.py' -type f -delete \
    && find kubernetes oauthlib requests requests_oauthlib urllib3 websocket -name '*.pyc' -delete \
    && find . '(' -name '*.py[ix]' -o -name '*.px[di]' -o -name '*.[ch]' ')' -delete

FROM ${BASE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Libraries ask for the user's name and home.
RUN groupadd --gid 65532 nonroot \
    && useradd --uid 65532 --gid 65532 --home-dir /home/nonroot --create-home --shell /usr/sbin/nologin nonroot
# The agent needs the runtime's socket, which belongs to root: its manifest sets runAsUser 0.
USER 65532
CMD ["python", "-m", "handlers", "--watch"]
