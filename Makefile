# make            ./train_gpt         for this machine, MPI's compiler wrapper
# make clang      ./train_gpt.clang   the same with clang
# make asan       ./train_gpt.asan    AddressSanitizer and UndefinedBehaviorSanitizer, for tests
# make a64fx      ./train_gpt.a64fx   cross build for Fugaku's CPU, with the AArch64 root of scripts/a64fx_sysroot.sh
# make tests      what the tests run beside the program
# make check      scripts/test.sh
#
# On Fugaku itself: make MPICC="mpifcc -Nclang" NATIVE=-mcpu=a64fx

MPICC  ?= mpicc
CLANG  ?= clang
CROSS  ?= aarch64-linux-gnu-gcc
# -ffp-contract=off: a * b + c is rounded twice unless the source says fma, so that all compilers agree on the bits.
# No -Ofast, -ffast-math or -ffinite-math-only: they let NaN pass isfinite, in the tests and in the guard of the
# training loop alike.
NATIVE ?= -march=native
CFLAGS ?= -O3 -ffp-contract=off
WARN   := -I. -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fopenmp
REVISION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
DEFINES  = -DGIT_REVISION='"$(REVISION)"' -DCOMPILER_FLAGS='"$(strip $(1))"'
SANITIZE := -O1 -ffp-contract=off -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
# The two halve gcc's time with sanitizers; clang has neither.
GCC_SANITIZE := $(SANITIZE) -fno-inline-functions-called-once -fira-region=one
HEADERS := $(wildcard *.h */*.h)
TOOLS   := $(patsubst test/%.c,%,$(wildcard test/*_tool.c))
SYSROOT  = $(shell scripts/a64fx_sysroot.sh)
# gcc 12 for AArch64 crashes in its dominator optimisation on some predicated SVE loops.
A64FX   := -O3 -ffp-contract=off -mcpu=a64fx -fno-tree-dominator-opts -fno-schedule-insns

train_gpt: train_gpt.c $(HEADERS)
	$(MPICC) $(WARN) $(CFLAGS) $(NATIVE) $(call DEFINES,$(CFLAGS) $(NATIVE)) $< -o $@ -lm

train_gpt.clang: train_gpt.c $(HEADERS)
	MPICH_CC=$(CLANG) $(MPICC) $(WARN) $(CFLAGS) $(NATIVE) $(call DEFINES,$(CFLAGS) $(NATIVE)) $< -o $@ -lm

train_gpt.asan: train_gpt.c $(HEADERS)
	$(MPICC) $(WARN) $(GCC_SANITIZE) $(NATIVE) $(call DEFINES,$(GCC_SANITIZE) $(NATIVE)) $< -o $@ -lm

train_gpt.a64fx: train_gpt.c $(HEADERS) scripts/a64fx_sysroot.sh
	@test -n "$(SYSROOT)" || { echo "make a64fx: scripts/a64fx_sysroot.sh made no AArch64 root" >&2; exit 1; }
	$(CROSS) --sysroot=$(SYSROOT) -I$(SYSROOT)/usr/include/aarch64-linux-gnu/mpich $(WARN) $(A64FX) \
		$(call DEFINES,$(A64FX)) $< -o $@ -lmpich -lm

# The tools that let Python call the program's functions: build/tools/NAME/native and asan.
build/tools/%/native: test/%.c test/tool.h $(HEADERS)
	@mkdir -p $(@D)
	$(MPICC) $(WARN) $(CFLAGS) $(NATIVE) $< -o $@ -lm

build/tools/%/asan: test/%.c test/tool.h $(HEADERS)
	@mkdir -p $(@D)
	$(MPICC) $(WARN) $(GCC_SANITIZE) $(NATIVE) $< -o $@ -lm

build/test_kernels: test/test_kernels.c $(HEADERS)
	@mkdir -p build
	$(CC) $(WARN) $(CFLAGS) $(NATIVE) $< -o $@ -lm

build/test_kernels.asan: test/test_kernels.c $(HEADERS)
	@mkdir -p build
	$(CC) $(WARN) $(GCC_SANITIZE) $(NATIVE) $< -o $@ -lm

# Comparisons are not traced: the seeds have all magic values, and several times as many inputs are
# tried in the same time.
build/fuzz_readers: test/fuzz_readers.c test/fuzz_mutate.h $(wildcard test/fuzz_targets/*.h) train_gpt.c $(HEADERS)
	@mkdir -p build
	MPICH_CC=$(CLANG) $(MPICC) $(WARN) $(SANITIZE) -fsanitize=fuzzer -fno-sanitize-coverage=trace-cmp $< -o $@ -lm

build/polite_wait.so: test/polite_wait.c
	@mkdir -p build
	$(CC) -std=c11 -Wall -Wextra -Werror -O2 -shared -fPIC $< -o $@ -ldl

build/bench_gemm: test/bench_gemm.c $(HEADERS)
	@mkdir -p build
	$(CC) $(WARN) $(CFLAGS) $(NATIVE) $< -o $@ -ldl -lm

clang: train_gpt.clang
asan: train_gpt.asan
a64fx: train_gpt.a64fx
# The longest first, so that no compiler is alone at the end.
tests: build/fuzz_readers $(foreach tool,$(TOOLS),build/tools/$(tool)/asan build/tools/$(tool)/native) \
	build/test_kernels build/test_kernels.asan build/polite_wait.so
check:
	scripts/test.sh
clean:
	rm -rf train_gpt train_gpt.clang train_gpt.asan train_gpt.a64fx build/test_kernels build/test_kernels.asan \
		build/bench_gemm build/fuzz_readers build/polite_wait.so build/tools

.PHONY: clang asan a64fx tests check clean
