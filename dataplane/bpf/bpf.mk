# Compiles the programs (`make bpf`). The Makefile includes this file.

BPF_CLANG   ?= clang
BPF_PACKAGE := dataplane/nat64_dataplane/bpf
BPF_OBJECT  := $(patsubst dataplane/bpf/%.bpf.c,$(BPF_PACKAGE)/%.bpf.o,$(wildcard dataplane/bpf/*.bpf.c))
# The machine's own headers: <linux/types.h> needs <asm/types.h>, wherever Debian has put it.
BPF_FLAGS   := -g -O2 -target bpf -mcpu=v3 -Wall -Wextra -Werror -I dataplane/bpf \
	-idirafter /usr/include/$(shell uname -m)-linux-gnu

.PHONY: bpf
bpf: $(BPF_OBJECT)

# Written to another name and then moved, so that a loader never reads half an object.
$(BPF_PACKAGE)/%.bpf.o: dataplane/bpf/%.bpf.c $(wildcard dataplane/bpf/*.h)
	$(BPF_CLANG) $(BPF_FLAGS) -c $< -o $@.new
	mv $@.new $@
