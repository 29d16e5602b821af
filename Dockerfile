# One image for all three programs; the manifest says which one runs. It holds the programs only: no demo, no pip.
# Tests run the steps below except the downloads, and start every program from what they leave.
#
# A build that must be the same tomorrow names the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /src
# For strip.
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
COPY requirements.txt requirements-build.txt ./
# What installs and builds is locked as well, and stays behind.
RUN python -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.txt
RUN python -m venv --without-pip /venv
RUN /build/bin/pip --python /venv install --no-cache-dir --no-compile --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY warmhook warmhook
COPY adapters adapters
COPY handlers handlers
COPY nodeagent nodeagent
COPY cli/*.py cli/
# Each of its commands but the demo.
COPY cli/diff cli/diff
COPY cli/doctor cli/doctor
COPY cli/explain cli/explain
COPY cli/plan cli/plan
COPY cli/status cli/status
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && /build/bin/pip --python /venv install --no-cache-dir --no-compile --no-deps --no-index /dist/*.whl
# By content: compiled files that name the time of their source are useless in an image whose files all have one time.
RUN /venv/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /venv/lib
# What no program reads: the generated API of the kubernetes client, compilers of C, time zones (the base has them),
# authorities for gRPC over TLS, pydantic's old self, lists of files that are not all there any more, tests, sources of
# what is compiled, and what debuggers read.
# The kubernetes client and what only it imports read kubeconfigs that need a plugin, as source code.
RUN cd /venv/lib/python3*/site-packages \
    && rm -r kubernetes/client/api kubernetes/aio/client/api cffi pycparser tzdata grpc/_cython/_credentials pydantic/v1 \
        *.dist-info/RECORD */tests \
    && find kubernetes -path '*/models/*' ! -name '__init__.py' -type f -delete \
    && find kubernetes oauthlib requests requests_oauthlib urllib3 websocket -name '*.pyc' -delete \
    && find . '(' -name '*.py[ix]' -o -name '*.px[di]' -o -name '*.[ch]' ')' -delete \
    && find . -name '*.so' -exec strip --strip-debug {} +

FROM ${BASE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Libraries ask for the user's name and home. The date of the user is that of the build, unless this names another.
ARG SOURCE_DATE_EPOCH
RUN groupadd --gid 65532 nonroot \
    && useradd --uid 65532 --gid 65532 --home-dir /home/nonroot --create-home --shell /usr/sbin/nologin nonroot
# The agent needs the runtime's socket, which belongs to root: its manifest sets runAsUser 0.
USER 65532
CMD ["python", "-m", "handlers", "--watch"]
ARG VERSION=unknown
LABEL org.opencontainers.image.title=Warmhook \
    org.opencontainers.image.description="Has a container image on the Kubernetes node before the Pod that needs it" \
    org.opencontainers.image.licenses=Apache-2.0 \
    org.opencontainers.image.version=${VERSION}
