#!/bin/sh
# The first process of a node. It is started in the node's network namespace with mount, process
# and host name namespaces of its own, makes the file system that the node's programs see, and then
# only keeps the namespaces alive: when it is killed, the kernel ends every process of the node and
# every mount goes with them.
#
# usage: node-init.sh NAME STATE NAMESERVER SHARED...
set -eu
name=$1 state=$2 nameserver=$3
shift 3

# A throw-away copy of the machine's root: all that a node writes is in memory, and forgotten.
mount -t tmpfs -o mode=755 node "$state/$name/root"
cd "$state/$name/root"
mkdir upper work root
mount -t overlay node -o lowerdir=/,upperdir=upper,workdir=work root
cd root

mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount --rbind /dev dev
mount -t tmpfs -o mode=755 run run

# Folders that the node shares with the harness, under the same path.
for shared in "$@"; do
  mkdir -p ".$shared"
  mount --bind "$shared" ".$shared"
done
# Image layers are overlays, which cannot lie on an overlay.
mkdir -p var/lib/containerd
mount -t tmpfs -o mode=700 containerd var/lib/containerd

echo "$name" > etc/hostname
rm -f etc/resolv.conf
echo "nameserver $nameserver" > etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost\n' > etc/hosts
hostname "$name"

pivot_root . .
umount -l .
cd /
# A kubelet passes mounts on to pods, and some pods to each other.
mount --make-rshared /

# A kubelet sets these for the whole machine, unless it finds them as it wants them.
pretend() {
  echo "$2" > "/run/$(basename "$1")"
  mount --bind "/run/$(basename "$1")" "/proc/sys/$1"
}
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000

touch /run/node-is-up
# Orphans end here; ignoring their end has the kernel bury them.
trap '' CHLD
exec sleep infinity
