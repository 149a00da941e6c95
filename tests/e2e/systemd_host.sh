#!/bin/bash
# Becomes a host's systemd, as process 1 of the namespaces that `unshare` has made for it: the root file system is
# this machine's under an overlay, and nothing but podtally.service is started, or could be.
#
#   systemd_host.sh UNIT PROGRAM SHARED CHECKOUT: SHARED is a directory that both sides see, with the unit's
#   drop-in; CHECKOUT has the program, and may be on a file system of its own
set -euo pipefail
unit=$1 program=$2 shared=$3 checkout=$4
top=/mnt

mount --make-rslave /
mount -t tmpfs tmpfs "$top"
mkdir "$top"/{upper,work,root,shared,checkout}
mount --bind "$checkout" "$top/checkout"
mount --bind "$shared" "$top/shared"
mount -t overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" overlay "$top/root"
cd "$top/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p run/netns run/shared opt/podtally/bin ".$checkout"
mount --move "$top/checkout" ".$checkout"
mount --move "$top/shared" run/shared

printf '#!/bin/sh\nexec %s "$@"\n' "$program" >opt/podtally/bin/podtally
chmod 755 opt/podtally/bin/podtally
rm -rf etc/systemd/system etc/podtally
rm -f usr/bin/kill # procps', which minimal systems lack
mkdir -p etc/systemd/system/podtally.service.d
cp "$unit" etc/systemd/system/podtally.service
cp run/shared/drop-in.conf etc/systemd/system/podtally.service.d/test.conf
for target in default sysinit basic shutdown umount final; do
	printf '[Unit]\nDefaultDependencies=no\n' >"etc/systemd/system/$target.target"
done

mkdir -p old
pivot_root . old
umount -l old
exec env -i container=podtally PATH="$PATH" /lib/systemd/systemd --unit=default.target --log-target=null --show-status=0
