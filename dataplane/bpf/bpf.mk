# Compiles the translator's programs (`make bpf`). The Makefile includes this file.

BPF_CLANG  ?= clang
BPF_SOURCE := dataplane/bpf/nat64.bpf.c
BPF_OBJECT := dataplane/nat64_dataplane/bpf/nat64.bpf.o
# The machine's own headers: <linux/types.h> needs <asm/types.h>, wherever Debian has put it.
BPF_FLAGS  := -g -O2 -target bpf -mcpu=v3 -Wall -Wextra -Werror -I dataplane/bpf \
	-idirafter /usr/include/$(shell uname -m)-linux-gnu

.PHONY: bpf
bpf: $(BPF_OBJECT)

# Written to another name and then moved, so that a loader never reads half an object.
$(BPF_OBJECT): $(BPF_SOURCE) $(wildcard dataplane/bpf/*.h)
	$(BPF_CLANG) $(BPF_FLAGS) -c $< -o $@.new
	mv $@.new $@
