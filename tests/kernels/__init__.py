"""The translator on other kernels than this machine's, each booted in an emulator.

Debian's own package of the kernel is unpacked, not installed. The emulated machine has this one's
files for its root (over 9p, with memory laid over them for what it writes), so nothing but the
kernel differs, and no second Debian has to be made. For a machine of another architecture one is:
its packages and wheels are unpacked into the cache, and this tree is laid beside them.
"""
