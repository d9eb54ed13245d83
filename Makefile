# SPDX-License-Identifier: Apache-2.0
# weft. `make help` lists the targets; `make demo` and `make test` do everything on a fresh machine.

VERSION  := 0.1.0
BUILD    ?= build
PREFIX   ?= /usr/local
ifeq ($(origin CC),default)
CC       := gcc
endif
SAY       = @printf '  %-5s %s\n'
Q        := $(if $(V),,@)
PKGS     := libpcre2-8 libutf8proc
CMD_PKGS := libedit
OPT      ?= -O2
DEBUG    ?= $(if $(SAN)$(EXTRA),-g)
SAN      ?=
EXTRA    ?=
WARN     := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Werror
HARDEN   := $(if $(SAN),,-D_FORTIFY_SOURCE=2) -fstack-protector-strong -fcf-protection
# One arithmetic: no contraction, no fast-math, anywhere.
WARN     += $(if $(SAN)$(EXTRA),-Wno-format-truncation -Wno-maybe-uninitialized)
NUMERICS := -ffp-contract=off -fno-math-errno
CFLAGS   += -std=c17 $(DEBUG) $(OPT) $(WARN) $(HARDEN) $(NUMERICS) -fPIC -fvisibility=hidden -pthread \
            -D_GNU_SOURCE -Iinclude -I. $(EXTRA) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer)
LDFLAGS  += -pthread -Wl,-z,relro,-z,now -Wl,--as-needed $(EXTRA) $(if $(SAN),-fsanitize=$(SAN))
LDLIBS    = $(shell pkg-config --libs $(PKGS)) $(CUDA_LIBS) -lm -ldl

# kernels/cpu is built once per level of the machine; simd.h is all that differs.
LEVEL0 :=
LEVEL1 := -mavx2 -mfma -mf16c
LEVEL2 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512
LEVEL3 := $(LEVEL2) -mavx512bf16 -mavx512vnni
CPU_FLAGS := -O3 $(if $(filter clang%,$(notdir $(CC))),,-fno-semantic-interposition)

CPU_SRC  := $(filter-out kernels/cpu/table.c %_bf16dot.c,$(wildcard kernels/cpu/*.c))
CPU_OBJ  := $(foreach n,0 1 2,$(CPU_SRC:%.c=$(BUILD)/%.$n.o)) \
            $(patsubst %.c,$(BUILD)/%.3.o,$(wildcard kernels/cpu/*_bf16dot.c) kernels/cpu/matmul_s8.c)
# kernels/cuda runs on the emulator: the very files that nvcc compiles, in C++ without its library.
CXX      := $(if $(findstring clang,$(CC)),$(subst clang,clang++,$(CC)),g++)
CXXFLAGS  = $(patsubst -std=c17,-std=c++17,$(filter-out -Wstrict-prototypes -Wmissing-prototypes,$(CFLAGS))) \
            -fno-exceptions -fno-rtti -fno-threadsafe-statics
CU_FLAGS := -Ikernels/emu -DWEFT_CU_NS=weft_emu -Wno-unknown-pragmas -x c++
EMU_OBJ  := $(patsubst %,$(BUILD)/host/run/%.emu.o,device_cuda comm_nccl comm_nccl_move) $(patsubst %.cc,$(BUILD)/%.o,$(wildcard kernels/emu/*.cc)) \
            $(patsubst %.cu,$(BUILD)/%.emu.o,$(wildcard kernels/cuda/*.cu kernels/sm90/*.cu))

include scripts/cuda.mk scripts/mpi.mk
LIB_SRC  := $(filter-out $(NOT_SRC),$(wildcard host/base/*.c host/run/*.c host/model/*.c host/model/*/*.c \
              host/serve/*.c host/train/*.c kernels/ref/*.c)) kernels/cpu/table.c
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o) $(CPU_OBJ) $(EMU_OBJ) $(CUDA_OBJ)
CMD_OBJ  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard host/cmd/*.c))
CHECK    := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/check/*.c))
UNIT     := $(patsubst tests/unit/%,$(BUILD)/tests/unit/%,$(basename $(wildcard tests/unit/*_test.c tests/unit/*_test.cu)))
FUZZ     := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(wildcard tests/fuzz/*_fuzz.c))
BENCH    := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))
DEPS     := $(LIB_OBJ:.o=.d) $(CMD_OBJ:.o=.d) $(CHECK:.o=.d) $(UNIT:=.d) $(FUZZ:=.d) $(BENCH:=.d)

.PHONY: all demo demo-model test test-long asan tsan fuzz cover bench lint format install clean help setup tests
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

all: $(BUILD)/weft $(BUILD)/libweft.a $(BUILD)/libweft.so $(BUILD)/checkkernels ## build everything

# A newcomer's machine: install what is missing first, then look for the libraries.
setup:
	@scripts/setup

demo: setup ## set up, build, write text with the shipped model, show speed and % of the ceiling
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@scripts/demo $(BUILD)/weft bench/models/demo

demo-model: all ## train the demo model: TEXTS="a.txt b.txt", into $(BUILD)/demo
	@scripts/demo_model $(BUILD)/weft bench/models/demo $(BUILD)/demo $(TEXTS)

test: setup ## set up, build, run every test (under 15 minutes on two cores)
	@$(MAKE) --no-print-directory -j"$$(nproc)" all tests
	@tests/run --build $(BUILD)

test-long: setup ## everything `test` samples, in full
	@$(MAKE) --no-print-directory -j"$$(nproc)" all tests
	@tests/run --build $(BUILD) --long

tests: $(UNIT) $(FUZZ) $(BENCH)

asan: ## unit tests, kernels and fuzz corpora under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory -j"$$(nproc)" BUILD=$(BUILD)/asan OPT=-O1 SAN=address,undefined all tests
	@ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  tests/run --build $(BUILD)/asan --timeout 1200

tsan: ## what runs threads under ThreadSanitizer
	@$(MAKE) --no-print-directory -j"$$(nproc)" BUILD=$(BUILD)/tsan OPT=-O1 SAN=thread all tests
	@TSAN_OPTIONS=halt_on_error=1 tests/run --build $(BUILD)/tsan --timeout 1200

FUZZ_SECONDS ?= 60
fuzz: ## coverage-guided fuzzing of every parser with clang's libFuzzer (FUZZ_SECONDS each)
	@scripts/setup --lint
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CC=clang OPT=-O1 \
	  SAN=fuzzer-no-link,address,undefined FUZZ_MAIN= FUZZ_LINK=-fsanitize=fuzzer fuzz-targets
	@for f in $(notdir $(FUZZ)); do mkdir -p $(BUILD)/fuzz/corpus/$$f; \
	  $(BUILD)/fuzz/tests/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -timeout=5 \
	    $(BUILD)/fuzz/corpus/$$f tests/fuzz/corpus/$${f%_fuzz} || exit 1; done
.PHONY: fuzz-targets
fuzz-targets: $(FUZZ)

cover: ## line coverage of host/ and kernels/{ref,cpu}
	@scripts/setup --lint
	@$(MAKE) --no-print-directory -j"$$(nproc)" BUILD=$(BUILD)/cover OPT=-O1 EXTRA=--coverage HARDEN= all tests
	@tests/run --build $(BUILD)/cover
	@gcovr -r . --object-directory $(BUILD)/cover -f 'host/' -f 'kernels/' --print-summary \
	  --exclude-throw-branches -o $(BUILD)/cover/lines.txt; tail -n 4 $(BUILD)/cover/lines.txt

bench: all tests ## kernels and end to end against this machine's measured ceilings
	@$(BUILD)/checkkernels --bench
	@bench/run

lint: ## layering, sizes, names, format, clang-tidy, cppcheck
	@scripts/setup --lint
	@scripts/lint

format: ## rewrite the sources in the house style
	@scripts/lint --fix

install: all ## into PREFIX (default /usr/local) under DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig \
	  $(DESTDIR)$(PREFIX)/include/weft $(DESTDIR)$(PREFIX)/share/man/man1 \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 755 $(BUILD)/weft $(DESTDIR)$(PREFIX)/bin/weft
	install -m 644 $(BUILD)/libweft.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(BUILD)/libweft.so $(DESTDIR)$(PREFIX)/lib/libweft.so.$(VERSION)
	ln -sf libweft.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libweft.so.0
	ln -sf libweft.so.0 $(DESTDIR)$(PREFIX)/lib/libweft.so
	install -m 644 include/weft.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 include/weft/status.h $(DESTDIR)$(PREFIX)/include/weft/
	$(BUILD)/weft help --man > $(DESTDIR)$(PREFIX)/share/man/man1/weft.1
	$(BUILD)/weft completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/weft
	printf '%s\n' 'prefix=$(PREFIX)' 'Name: weft' 'Description: a transformer runtime' \
	  'Version: $(VERSION)' 'Requires.private: $(PKGS)' 'Libs: -L$${prefix}/lib -lweft' \
	  'Libs.private: $(CUDA_LIBS) -lm -ldl -pthread' 'Cflags: -I$${prefix}/include' \
	  > $(DESTDIR)$(PREFIX)/lib/pkgconfig/weft.pc

clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile */*.mk

$(BUILD)/weft: $(CMD_OBJ) $(BUILD)/libweft.a
	$(SAY) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(shell pkg-config --libs $(CMD_PKGS))
$(BUILD)/host/cmd/report_html.o: host/cmd/report.css host/cmd/report.js
$(BUILD)/checkkernels: $(CHECK) $(BUILD)/libweft.a
	$(SAY) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(BUILD)/libweft.a: $(LIB_OBJ) $(CUDA_STAMP)
	@rm -f $@
	$(SAY) AR $@
	$(Q)ar rcs $@ $(LIB_OBJ)
$(BUILD)/libweft.so: $(LIB_OBJ) $(CUDA_STAMP)
	$(SAY) LINK $@
	$(Q)$(CC) -shared -Wl,-soname,libweft.so.0 $(LDFLAGS) -o $@ $(LIB_OBJ) $(LDLIBS)

$(BUILD)/tests/unit/%_test: tests/unit/%_test.c $(BUILD)/libweft.a
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) $(CFLAGS) -MMD -MP -MF $@.d $(LDFLAGS) -o $@ $< $(BUILD)/libweft.a $(LDLIBS) -lcmocka
$(BUILD)/tests/unit/%_test: tests/unit/%_test.cu $(BUILD)/libweft.a
	@mkdir -p $(@D)
	$(SAY) EMU $@
	$(Q)$(CXX) $(CXXFLAGS) $(CU_FLAGS) -MMD -MP -MF $@.d $< -x none $(LDFLAGS) -o $@ $(BUILD)/libweft.a $(LDLIBS) -lcmocka
FUZZ_MAIN ?= tests/fuzz/driver.c
$(BUILD)/tests/fuzz/%_fuzz: tests/fuzz/%_fuzz.c $(FUZZ_MAIN) $(BUILD)/libweft.a
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $(FUZZ_LINK) -o $@ $< $(FUZZ_MAIN) $(BUILD)/libweft.a $(LDLIBS)
$(BUILD)/bench/%: bench/%.c $(BUILD)/libweft.a
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) $(CFLAGS) -MMD -MP -MF $@.d $(LDFLAGS) -o $@ $< $(BUILD)/libweft.a $(LDLIBS)

define CPU_RULE
$(BUILD)/kernels/cpu/%.$1.o: kernels/cpu/%.c
	@mkdir -p $$(@D)
	$$(SAY) CC $$@
	$$(Q)$$(CC) $$(CFLAGS) $$(CPU_FLAGS) $$(LEVEL$1) -DWEFT_CPU_LEVEL=$1 -MMD -MP -c -o $$@ $$<
endef
$(foreach n,0 1 2 3,$(eval $(call CPU_RULE,$n)))
$(BUILD)/%.emu.o: %.cu
	@mkdir -p $(@D)
	$(SAY) EMU $@
	$(Q)$(CXX) $(CXXFLAGS) $(CU_FLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/kernels/emu/memory.o $(BUILD)/kernels/emu/warp.o: override SAN := # tables that check others
$(BUILD)/%.o: %.cc
	@mkdir -p $(@D)
	$(SAY) CXX $@
	$(Q)$(CXX) $(CXXFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(SAY) CC $@
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

-include $(DEPS) bench/gpu.mk scripts/gate.mk scripts/fake.mk
