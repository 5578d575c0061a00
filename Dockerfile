# One image for every part of the distributed mode, and for `tollgate up`: the command says which.
#
#   docker build -t tollgate .
#   docker run --rm tollgate tollgate --help
#
# Cloud only: without torch. There is no ENTRYPOINT, so a command is written as on a machine: `tollgate worker`.
# The target `local` has what a model on one's own GPU needs: torch with CUDA 13.0 (2.7 GB of wheels), transformers and
# bitsandbytes. The machine needs NVIDIA's driver, 580 or later, and its container toolkit; CUDA comes with torch.
#
#   docker build --target local -t tollgate-local .

FROM python:3.11-slim-bookworm AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/tollgate

# The dependencies first: these layers are built again when they change, not when the code does.
# Wheels only: the slim image has no compiler, and should not get one.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && /opt/tollgate/bin/pip install --only-binary=:all: -c constraints.txt -r requirements.txt

FROM dependencies AS build
COPY README.md LICENSE ./
COPY tollgate tollgate
COPY gateway gateway
COPY worker worker
COPY migrations migrations
RUN /opt/tollgate/bin/pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/tollgate/bin/pip install --no-deps /wheels/tollgate-*.whl

FROM dependencies AS local_dependencies
RUN python -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; print(*extras['local'], *extras['quantization'], sep='\n')" \
        > requirements-local.txt \
    && /opt/tollgate/bin/pip install --only-binary=:all: -c constraints.txt -r requirements-local.txt

FROM python:3.11-slim-bookworm AS machine
# A fixed number: it owns the data folder, whatever the host calls it. `tollgate up` keeps its database and keys
# there (mount a volume); of the distributed mode its gateways keep uploaded files there, and local workers what they
# download from the model hub.
RUN useradd --system --uid 10001 --create-home --home-dir /home/tollgate tollgate \
    && install -d -o tollgate -g tollgate -m 0700 /var/lib/tollgate /var/lib/tollgate/files /var/lib/tollgate/hub
ENV PATH=/opt/tollgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TOLLGATE_DATA=/var/lib/tollgate
WORKDIR /home/tollgate
EXPOSE 8000
CMD ["tollgate", "--help"]

FROM machine AS local
# The gigabytes of CUDA in a layer of their own, which a change of the code leaves as it is.
COPY --from=local_dependencies /opt/tollgate /opt/tollgate
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/tollgate-*.whl
ENV HF_HOME=/var/lib/tollgate/hub
USER tollgate

FROM machine AS cloud
COPY --from=build /opt/tollgate /opt/tollgate
USER tollgate
