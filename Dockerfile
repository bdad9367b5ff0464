# Both images of the product. BASE is any image of Debian 12 or later, and only builds: what it builds
# with stays behind. Where no registry is at hand, tests/cluster makes one with debootstrap. APT_CONFIG
# and PIP_CONFIG_FILE may name files that are there only while building, and say how the builder
# reaches its package indexes.
#
#   docker build --target operator  -t nat64-operator/operator:0.1.0  .
#   docker build --target dataplane -t nat64-operator/dataplane:0.1.0 .
#
# They can be for amd64 and arm64, whatever the machine that builds them is, and none is emulated:
# packages and wheels of the other architecture are unpacked, never run.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --target operator -t ... --push .
#
# A builder that doesn't set BUILDPLATFORM by itself, such as buildah before 1.33, is told it with
# --build-arg where --platform is another than its own.
#
# Each image has its bill of materials in /usr/share/sbom; to get it beside the build:
#
#   docker build --target operator-sbom --output build/sbom .
ARG BASE=debian:bookworm-slim

FROM --platform=$BUILDPLATFORM ${BASE} AS build
ARG APT_CONFIG
ARG PIP_CONFIG_FILE
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates clang libbpf-dev linux-libc-dev make python3-pip python3-venv
# A compiled module is the same bytes in every build, and is never compiled again.
ENV PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 \
    INSTALL="pip --python /opt/nat64/bin/python install --no-deps --no-compile" \
    COMPILE="python3 -m compileall -q --invalidation-mode unchecked-hash"
COPY requirements/build.lock /requirements/
RUN pip install --require-hashes --no-deps -r /requirements/build.lock \
 && python3 -m venv --without-pip /opt/nat64

# Debian's Python and the libraries that it needs; then, for the translator, libbpf.
FROM build AS roots
ARG APT_CONFIG
ARG TARGETARCH
COPY scripts/image-root /usr/local/bin/
RUN arch=${TARGETARCH:-$(dpkg --print-architecture)} \
 && apt-get update -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
 && image-root /python - "$arch" python3 \
 && image-root /libbpf /python "$arch" libbpf1 \
 && $COMPILE -s /python -p / /python/usr/lib/python3* \
 && mkdir -m 1777 /python/tmp \
 && mkdir -p /python/etc \
 && echo 'hosts: files dns' > /python/etc/nsswitch.conf \
 && echo 'root:x:0:0:root:/:/sbin/nologin' > /python/etc/passwd \
 && echo 'nat64:x:65532:65532:nat64:/:/sbin/nologin' >> /python/etc/passwd \
 && printf 'root:x:0:\nnat64:x:65532:\n' > /python/etc/group

# The Kubernetes client comes twice, and is most of the image: the asynchronous one is not used, and what
# is left is generated code, which is kept compiled only.
FROM build AS operator-dependencies
ARG PIP_CONFIG_FILE
ARG TARGETARCH
COPY scripts/image-wheels /usr/local/bin/
COPY requirements/operator.lock /requirements/
RUN arch=${TARGETARCH:-$(dpkg --print-architecture)} \
 && image-wheels /opt/nat64/lib/python3*/site-packages "$arch" /requirements/operator.lock \
 && cd /opt/nat64/lib/python3*/site-packages/kubernetes \
 && rm -rf aio \
 && $COMPILE -b client/api client/models \
 && find client/api client/models -name '*.py' -delete \
 && $COMPILE /opt/nat64/lib

FROM build AS dataplane-dependencies
ARG PIP_CONFIG_FILE
ARG TARGETARCH
COPY scripts/image-wheels /usr/local/bin/
COPY requirements/dataplane.lock /requirements/
RUN arch=${TARGETARCH:-$(dpkg --print-architecture)} \
 && image-wheels /opt/nat64/lib/python3*/site-packages "$arch" /requirements/dataplane.lock \
 && $COMPILE /opt/nat64/lib

# Our own package, with the eBPF program compiled into it. It goes on top of either environment: what
# changes with every commit is a layer of a megabyte.
FROM build AS package
WORKDIR /src
COPY . .
RUN make --assume-old=deps bpf \
 && pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel . \
 && $INSTALL --no-index --prefix /package /wheel/*.whl \
 && $COMPILE -s /package -p /opt/nat64 /package/lib

FROM build AS operator-bill
ARG VERSION=0.1.0
COPY --from=roots /python/var /python/var
COPY --from=operator-dependencies /opt/nat64 /opt/nat64
COPY scripts/sbom.py /
RUN mkdir /sbom && python3 /sbom.py nat64-operator ${VERSION} /opt/nat64 /python > /sbom/operator.cdx.json

FROM build AS dataplane-bill
ARG VERSION=0.1.0
COPY --from=roots /python/var /python/var
COPY --from=roots /libbpf/var /libbpf/var
COPY --from=dataplane-dependencies /opt/nat64 /opt/nat64
COPY scripts/sbom.py /
RUN mkdir /sbom && python3 /sbom.py nat64-dataplane ${VERSION} /opt/nat64 /python /libbpf > /sbom/dataplane.cdx.json

FROM scratch AS operator-sbom
COPY --from=operator-bill /sbom /

FROM scratch AS dataplane-sbom
COPY --from=dataplane-bill /sbom /

FROM scratch AS runtime
COPY --from=roots /python /
ENV PATH=/opt/nat64/bin:/usr/bin:/bin
USER 65532:65532

FROM runtime AS operator
COPY --from=operator-dependencies /opt/nat64 /opt/nat64
COPY --from=operator-bill /sbom /usr/share/sbom
COPY --from=package /package /opt/nat64
ENTRYPOINT ["nat64-operator"]

# One image, three programs: nat64-translator, nat64-dns64 and nat64-clat. The pod says which, and that
# the first and the last are root on their node.
FROM runtime AS dataplane
# Whom the sidecar trusts when it asks an upstream over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
COPY --from=roots /libbpf /
COPY --from=dataplane-dependencies /opt/nat64 /opt/nat64
COPY --from=dataplane-bill /sbom /usr/share/sbom
COPY --from=package /package /opt/nat64
ENTRYPOINT ["nat64-translator"]
