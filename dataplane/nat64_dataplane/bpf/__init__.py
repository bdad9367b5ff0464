"""eBPF in the kernel, by libbpf through ctypes; the compiled object lies beside this file."""
