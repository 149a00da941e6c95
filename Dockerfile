# podtally and what it needs, little else: Python, the libraries it loads, and busybox for the
# manifests' own commands; no package manager, no compiler.
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

FROM debian AS build
# bcc compiles the kernel programs here, against the headers of any kernel: they include UAPI headers only.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
	ca-certificates python3-pip python3-bpfcc "linux-headers-$(dpkg --print-architecture)"
# Compiled files are validated by content, not by time, so they are the same in every build.
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv --without-pip /tools \
	&& python3 -m venv --without-pip /opt/podtally \
	&& pip --python /tools/bin/python install --require-hashes --only-binary :all: -r requirements-build.lock \
	&& pip --python /opt/podtally/bin/python install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml hatch_build.py README.md ./
COPY scripts/build-programs scripts/lib.sh ./scripts/
COPY bpf ./bpf
COPY agent ./agent
RUN pip --python /tools/bin/python wheel --no-build-isolation --no-deps --no-index --wheel-dir /wheels . \
	&& pip --python /opt/podtally/bin/python install --no-deps --no-index /wheels/*.whl \
	&& find /opt/podtally -type d -name tests -prune -exec rm -r {} + \
	&& rm -r /opt/podtally/lib/python3*/site-packages/numpy/f2py /opt/podtally/lib/python3*/site-packages/numpy/distutils

# The root: packages that Python needs, unpacked; licences stay, and what scanners read.
FROM debian AS root
WORKDIR /packages
RUN apt-get update \
	&& python=$(apt-cache depends python3-minimal | grep -om1 'python3\.[0-9]*') \
	&& apt-get download libc6 libgcc-s1 libstdc++6 zlib1g libssl3 libcrypt1 libffi8 libexpat1 libbz2-1.0 liblzma5 libsqlite3-0 \
		libuuid1 netbase busybox-static "$python-minimal" "lib$python-minimal" "lib$python-stdlib" \
	&& mkdir -p tree /root-tree/usr/bin /root-tree/usr/sbin /root-tree/usr/lib /root-tree/usr/lib64 /root-tree/var/lib/dpkg/status.d \
	&& for directory in bin sbin lib lib64; do ln -s "usr/$directory" "/root-tree/$directory"; done \
	&& for package in *.deb; do \
		dpkg -x "$package" tree \
		&& dpkg -f "$package" >"/root-tree/var/lib/dpkg/status.d/${package%%_*}" || exit 1; \
	done \
	&& for directory in bin sbin lib lib64; do \
		if [ -d "tree/$directory" ]; then cp -a "tree/$directory/." "/root-tree/usr/$directory/" && rm -r "tree/$directory"; fi || exit 1; \
	done \
	&& cp -a tree/. /root-tree/ \
	&& cd /root-tree \
	&& ln -s "$python" usr/bin/python3 \
	&& for name in sh cat grep ls mount sleep umount; do ln -s busybox "usr/bin/$name" || exit 1; done \
	&& mkdir -p -m 1777 tmp && mkdir -p dev proc sys run root etc var/tmp \
	&& printf 'root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n' >etc/passwd \
	&& printf 'root:x:0:\nnogroup:x:65534:\n' >etc/group \
	&& printf 'hosts: files dns\n' >etc/nsswitch.conf \
	&& find usr/share/doc -type f ! -name copyright -delete \
	&& rm -rf usr/share/man usr/share/info usr/share/lintian usr/share/bug usr/share/binfmts usr/share/applications usr/share/pixmaps \
	&& rm -rf usr/lib/python3*/lib2to3 usr/lib/python3*/pydoc_data usr/lib/python3*/distutils usr/lib/python3*/idlelib

FROM scratch
COPY --from=root /root-tree /
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /opt/podtally /opt/podtally
# The packages' own scripts would do this; the files are validated by content, so they are the same in every build.
RUN ["/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-x", "/site-packages/", "/usr/lib"]
ENV PATH=/opt/podtally/bin:/usr/sbin:/usr/bin \
	PYTHONDONTWRITEBYTECODE=1 \
	LANG=C.UTF-8
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="podtally" \
	org.opencontainers.image.description="Exact books of every pod's traffic, from tc eBPF programs to Prometheus" \
	org.opencontainers.image.version="${VERSION}" \
	org.opencontainers.image.revision="${REVISION}" \
	org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
EXPOSE 9775
# Until its programs count, the agent answers 503.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["podtally", "health"]
ENTRYPOINT ["podtally"]
CMD ["run"]
