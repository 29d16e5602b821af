# One image for all three programs; the manifest says which one runs. Not built by the tests: they run the programs
# themselves, with the same locked dependencies.
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements.txt .
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY warmhook warmhook
COPY adapters adapters
COPY handlers handlers
COPY nodeagent nodeagent
COPY devcluster devcluster
COPY cli cli
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The agent needs the runtime's socket, which belongs to root: its manifest sets runAsUser 0.
USER 65532
CMD ["python", "-m", "handlers", "--watch"]
