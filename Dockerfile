# podtally with all dependencies: nodes need no headers and no compiler.
#
#   docker build -t podtally .
#   docker run --rm --network host --pid host --read-only --tmpfs /tmp \
#     --cap-drop ALL --cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON --cap-add SYS_PTRACE \
#     --cap-add NET_BROADCAST --security-opt no-new-privileges --security-opt apparmor=unconfined \
#     -v /sys/fs/bpf:/sys/fs/bpf -v /run/podtally:/run/podtally podtally
#
# Reproducible with SNAPSHOT (a timestamp of snapshot.debian.org, as 20261101T000000Z), BASE by digest,
# SOURCE_DATE_EPOCH, and a builder that writes no other time: see docs/install.md.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS debian
ARG SNAPSHOT=
RUN if [ -n "$SNAPSHOT" ]; then \
		sed -i "s,^URIs: http://deb.debian.org/\([a-z-]*\)$,URIs: http://snapshot.debian.org/archive/\1/$SNAPSHOT," \
			/etc/apt/sources.list.d/debian.sources \
		&& printf 'Acquire::Check-Valid-Until "false";\n' >/etc/apt/apt.conf.d/snapshot; \
	fi

# Headers of any kernel will do, since the programs include UAPI headers only. Debian keeps
# them in two trees, merged here; what bcc never reads is left out.
FROM debian AS headers
WORKDIR /packages
RUN apt-get update \
	&& depends() { apt-cache depends "$1" | sed -n "s/^ *Depends: \(linux-headers-.*$2\)$/\1/p"; } \
	&& flavour=$(depends "linux-headers-$(dpkg --print-architecture)" "") \
	&& apt-get download "$flavour" "$(depends "$flavour" -common)" \
	&& for package in *.deb; do dpkg -x "$package" tree; done \
	&& arch=$(basename "$(echo tree/usr/src/*/arch/*/include/generated | cut -d/ -f1-6)") \
	&& mkdir -p "/headers/arch/$arch" \
	&& for part in include "arch/$arch/include"; do \
		for tree in tree/usr/src/linux-headers-*-common "tree/usr/src/$flavour"; do \
			cp -a "$tree/$part/." "/headers/$part/" || exit 1; \
		done; \
	done \
	&& cd /headers/include \
	&& rm -r drm dt-bindings media pcmcia rdma scsi soc sound target video

FROM debian AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
	ca-certificates python3-pip
# Compiled files are validated by content, not by time, so they are the same in every build.
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv --without-pip /tools \
	&& python3 -m venv --without-pip /opt/podtally \
	&& pip --python /tools/bin/python install --require-hashes --only-binary :all: -r requirements-build.lock \
	&& pip --python /opt/podtally/bin/python install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md ./
COPY bpf ./bpf
COPY agent ./agent
RUN pip --python /tools/bin/python wheel --no-build-isolation --no-deps --no-index --wheel-dir /wheels . \
	&& pip --python /opt/podtally/bin/python install --no-deps --no-index /wheels/*.whl \
	&& find /opt/podtally -type d -name tests -prune -exec rm -r {} +

FROM debian
# bcc brings the compiler, LLVM as a library; nothing else here can compile.
RUN apt-get update \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-bpfcc \
	&& rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/cache/ldconfig/aux-cache \
		/var/log/apt /var/log/alternatives.log /var/log/dpkg.log
COPY --from=headers /headers /usr/lib/podtally/headers
COPY --from=build /opt/podtally /opt/podtally
ENV BCC_KERNEL_SOURCE=/usr/lib/podtally/headers \
	PATH=/opt/podtally/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	PYTHONDONTWRITEBYTECODE=1
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="podtally" \
	org.opencontainers.image.description="Exact books of every pod's traffic, from tc eBPF programs to Prometheus" \
	org.opencontainers.image.version="${VERSION}" \
	org.opencontainers.image.revision="${REVISION}" \
	org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
EXPOSE 9775
# Compiling takes time on a busy machine; until then the agent does not answer.
HEALTHCHECK --interval=30s --timeout=10s --start-period=11m CMD ["podtally", "health"]
ENTRYPOINT ["podtally"]
CMD ["run"]
