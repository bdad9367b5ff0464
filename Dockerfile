# Both images of the product. BASE is any image of Debian 12 or later; where no registry is at hand,
# tests/cluster makes one with debootstrap. APT_CONFIG and PIP_CONFIG_FILE may name files that are
# there only while building, and say how the builder reaches its package indexes.
#
#   docker build --target operator  -t nat64-operator/operator:dev  .
#   docker build --target dataplane -t nat64-operator/dataplane:dev .
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS runtime
ARG APT_CONFIG
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
ENV PATH=/opt/nat64/bin:$PATH

# What pip is to install, in files of their own: other changes to pyproject.toml cost nothing.
FROM runtime AS requirements
WORKDIR /requirements
COPY pyproject.toml requirements.lock ./
RUN list() { python3 -c "import tomllib; t = tomllib.load(open('pyproject.toml', 'rb')); p = t['project']; print('\n'.join($1))"; } \
 && list "t['build-system']['requires']" > build.txt \
 && list "p['dependencies'] + p['optional-dependencies']['operator']" > operator.txt \
 && list "p['dependencies'] + p['optional-dependencies']['dataplane']" > dataplane.txt

FROM runtime AS build
ARG APT_CONFIG
ARG PIP_CONFIG_FILE
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang libbpf-dev linux-libc-dev make python3-pip python3-venv
ENV PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore
COPY --from=requirements /requirements/build.txt /requirements/requirements.lock /requirements/
RUN pip install -c /requirements/requirements.lock -r /requirements/build.txt \
 && python3 -m venv --without-pip /opt/nat64

FROM build AS operator-dependencies
ARG PIP_CONFIG_FILE
COPY --from=requirements /requirements/operator.txt /requirements/
RUN pip --python /opt/nat64/bin/python install -c /requirements/requirements.lock -r /requirements/operator.txt

FROM build AS dataplane-dependencies
ARG PIP_CONFIG_FILE
COPY --from=requirements /requirements/dataplane.txt /requirements/
RUN pip --python /opt/nat64/bin/python install -c /requirements/requirements.lock -r /requirements/dataplane.txt

# Our own package, with the eBPF program compiled into it. It goes on top of either environment: what
# changes with every commit is a layer of a megabyte.
FROM build AS package
WORKDIR /src
COPY . .
RUN make --assume-old=deps bpf \
 && pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel . \
 && pip --python /opt/nat64/bin/python install --no-index --no-deps --prefix /package /wheel/*.whl

FROM runtime AS operator
COPY --from=operator-dependencies /opt/nat64 /opt/nat64
COPY --from=package /package /opt/nat64
USER 65532:65532
ENTRYPOINT ["nat64-operator"]

# One image, two programs: nat64-translator and nat64-dns64. The pod says which.
FROM runtime AS dataplane
ARG APT_CONFIG
RUN apt-get update \
 && apt-get install -y --no-install-recommends libbpf1 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=dataplane-dependencies /opt/nat64 /opt/nat64
COPY --from=package /package /opt/nat64
ENTRYPOINT ["nat64-translator"]
