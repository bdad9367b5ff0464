#!/bin/sh
# The emulated machine's first program, from its initramfs: this machine's own files become its
# root, read through 9p and written to memory only.
set -e
fail() {
	echo "init: could not $1"
	poweroff -f
}
. /job
while read -r module; do
	insmod "/modules/$module" || fail "load $module"
done </modules/order
mount -t proc proc /proc
read_through=trans=virtio,version=9p2000.L,cache=loose,msize=524288
mount -t 9p -o "ro,$read_through" root /below ||
	fail "mount the machine's files"
mount -t tmpfs tmpfs /above
mkdir /above/upper /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/upper,workdir=/above/work overlay /new ||
	fail "lay memory over them"
umount /proc
for kind in proc sysfs devtmpfs tmpfs; do
	case $kind in
	proc) place=/new/proc ;;
	sysfs) place=/new/sys ;;
	devtmpfs) place=/new/dev ;;
	tmpfs) place=/new/run ;;
	esac
	mount -t $kind $kind $place || fail "mount $kind"
done
# So that the kernel finds its modules by itself, as on any Debian.
mkdir -p /new/lib/modules
if [ "$SHARED" = yes ]; then
	# The root is another machine's: the tree and the modules come beside it.
	mount -t 9p -o "ro,$read_through" modules /new/lib/modules || fail "show the kernel its modules"
	mount -t 9p -o "ro,$read_through" tree /tree || fail "mount the tree"
	mkdir -p /above/tree /above/work-tree "/new$REPO"
	mount -t overlay -o lowerdir=/tree,upperdir=/above/tree,workdir=/above/work-tree overlay \
		"/new$REPO" || fail "lay memory over the tree"
else
	mount -o bind "/below$MODULES" /new/lib/modules || fail "show the kernel its modules"
fi
mkdir /new/run/result
mount -t 9p -o trans=virtio,version=9p2000.L result /new/run/result || fail "mount the result's place"
exec switch_root /new /bin/sh "$REPO/tests/kernels/guest.sh" "$REPO" "$PYTHON"
