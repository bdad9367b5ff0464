#!/bin/sh
# The first process of the engine: Docker from unpacked Debian packages, in a network namespace of its
# own, with mounts and process numbers of its own. When it is killed, the kernel ends all that
# Docker started, and every mount goes.
#
# usage: engine-init.sh DOCKER STATE DATA NAMESERVER
set -eu
docker=$1 state=$2 data=$3 nameserver=$4
here=$(dirname "$(readlink -f "$0")")

mount --make-rprivate /
mkdir -p "$state/cgroup" "$state/run" "$data"
mount --rbind /sys/fs/cgroup "$state/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$state/cgroup" /sys/fs/cgroup
umount -l "$state/cgroup"
mount -t proc proc /proc
mount -t tmpfs -o mode=755 run /run
# Docker keeps a key in /etc/docker, and kind mounts /lib/modules, which not every machine has, into
# its nodes: neither is to stay on the machine.
for folder in /etc /usr/lib; do
	mkdir -p "$state/over$folder/upper" "$state/over$folder/work"
	mount -t overlay -o "lowerdir=$folder,upperdir=$state/over$folder/upper,workdir=$state/over$folder/work" \
		overlay "$folder"
done
mkdir -p /lib/modules
rm -f /etc/resolv.conf
echo "nameserver $nameserver" > /etc/resolv.conf

cat > "$state/daemon.json" <<JSON
{
 "data-root": "$data",
 "storage-driver": "overlay2",
 "runtimes": {"capable": {"path": "$here/runc"}},
 "default-runtime": "capable",
 "default-cgroupns-mode": "private",
 "cgroup-parent": "/nat64-kind",
 "bip": "192.0.2.65/27",
 "default-address-pools": [{"base": "192.0.2.128/25", "size": 26}],
 "oom-score-adjust": 0
}
JSON
export PATH="$docker/usr/sbin:$docker/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
libraries="$(uname -m)-linux-gnu"
export LD_LIBRARY_PATH="$docker/lib/$libraries:$docker/usr/lib/$libraries"
trap '' CHLD
dockerd --config-file "$state/daemon.json" --pidfile /run/docker.pid &
exec sleep infinity
