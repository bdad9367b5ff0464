#!/bin/sh
# In the emulated machine, once it has its root: run the tests, leave the result, switch off.
repo=$1 python=$2 result=/run/result
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
cd "$repo" || exit
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
ip link set lo up
modprobe -a tun ppp_generic # which make their devices
uname -rm >$result/kernel
export NAT64_LAB_PATIENCE=600
# Through cat, because pytest would rewrite lines on a terminal.
{
	xargs -0 "$python" -u -m pytest --junitxml=$result/junit.xml <$result/arguments 2>&1
	echo $? >$result/exit
} | cat
sync
echo o >/proc/sysrq-trigger
sleep 60
