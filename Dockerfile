# Needs the host's bpffs and network: docker run --privileged --network host --pid host
#   -v /sys/fs/bpf:/sys/fs/bpf -v /run/podtally:/run/podtally -v /run/netns:/run/netns:ro podtally
FROM debian:bookworm-slim

# The headers of any kernel serve: the programs include UAPI headers only.
RUN apt-get update \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		python3-bpfcc python3-venv "linux-headers-$(dpkg --print-architecture)" \
	&& rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md /src/
COPY bpf /src/bpf
COPY agent /src/agent
RUN /usr/bin/python3 -m venv --system-site-packages /opt/podtally \
	&& /opt/podtally/bin/pip install --no-cache-dir /src \
	&& ln -s /opt/podtally/bin/podtally /usr/bin/podtally \
	&& rm -rf /src

ENTRYPOINT ["podtally"]
CMD ["run"]
