# One image for every part of the distributed mode, and for `tollgate up`: the command says which.
#
#   docker build -t tollgate .
#   docker run --rm tollgate tollgate --help
#
# Cloud only: without torch. There is no ENTRYPOINT, so a command is written as on a machine: `tollgate worker`.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/tollgate

# The dependencies first: this layer is built again when they change, not when the code does.
# Wheels only: the slim image has no compiler, and should not get one.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && /opt/tollgate/bin/pip install --only-binary=:all: -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY tollgate tollgate
COPY gateway gateway
COPY worker worker
COPY migrations migrations
RUN /opt/tollgate/bin/pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/tollgate/bin/pip install --no-deps /wheels/tollgate-*.whl

FROM python:3.11-slim-bookworm AS cloud
# A fixed number: it owns the data folder, whatever the host calls it. `tollgate up` keeps its database and keys
# there (mount a volume); the distributed mode keeps nothing.
RUN useradd --system --uid 10001 --create-home --home-dir /home/tollgate tollgate \
    && install -d -o tollgate -g tollgate -m 0700 /var/lib/tollgate
COPY --from=build /opt/tollgate /opt/tollgate
ENV PATH=/opt/tollgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TOLLGATE_DATA=/var/lib/tollgate
USER tollgate
WORKDIR /home/tollgate
EXPOSE 8000
CMD ["tollgate", "--help"]
