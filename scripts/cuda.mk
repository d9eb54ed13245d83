# SPDX-License-Identifier: Apache-2.0
# Included by the Makefile: kernels/cuda compiled by nvcc, and whether a build has them.

# With a CUDA toolkit the same files are compiled by nvcc too, and host/run/device_cuda.c beside them;
# `make WITH_CUDA=0` leaves both out. Instrumented builds (SAN, EXTRA) check the host: they do without.
WITH_CUDA ?= 0
WEFT_CUDA ?= $(HOME)/.cache/weft/cuda# where scripts/setup --cuda puts a toolkit
ifeq ($(origin NVCC),undefined)
NVCC     := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc $(WEFT_CUDA)/nvidia/cu*/bin/nvcc) nvcc)
endif
CUDA_BIN := $(if $(filter 1,$(WITH_CUDA)),$(if $(SAN)$(EXTRA),,$(realpath $(shell command -v $(NVCC) 2>/dev/null))))
CUDA     := $(patsubst %/bin/nvcc,%,$(CUDA_BIN))
CUDA_LIB := $(if $(CUDA),$(firstword $(dir $(wildcard $(CUDA)/lib64/libcudart_static.a $(CUDA)/lib/libcudart_static.a \
              $(CUDA)/lib/x86_64-linux-gnu/libcudart_static.a $(CUDA)/targets/*/lib/libcudart_static.a))))
ifneq ($(CUDA),)
ifeq ($(CUDA_LIB),)
$(warning $(CUDA): no libcudart_static.a (scripts/setup --cuda installs one); built without CUDA)
endif
endif
# ccache, where there is one, spares every clone of the sources but the first these minutes.
CCACHE   := $(if $(shell command -v ccache 2>/dev/null),CCACHE_DEPEND=1 CCACHE_NOHASHDIR=1 ccache)
# The GPU's own code for each of these, which 8.6 and 8.9 run as 8.0, and PTX for what comes after,
# from one pass of the front end: kernels/cuda asks for nothing that sm_80 lacks. `make gate` compiles
# for every one of GATE_SM.
CUDA_SM  ?= 80 90
GATE_SM  := 80 86 89 90
NVCCFLAGS = -std=c++17 -O3 -fmad=false -Werror all-warnings -Iinclude -I. -Ikernels/lib -DWEFT_CU_NS=weft_cuda \
            -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics \
            $(CUDA_PACK)$(CUDA_GEN)
CUDA_PACK := --compress-mode=size # a sixth of its size
comma    := ,
CUDA_GEN  = -gencode 'arch=compute_80,code=[$(subst $() $(),$(comma),$(CUDA_SM:%=sm_%) compute_80)]'
ifeq ($(CUDA_LIB),)
NOT_SRC  := host/run/device_cuda.c host/run/comm_nccl.c host/run/comm_nccl_move.c host/run/registry_cuda.c
else
NOT_SRC  := host/run/device_nocuda.c
CUDA_OBJ := $(patsubst %.cu,$(BUILD)/%.cuda.o,$(wildcard kernels/cuda/*.cu kernels/sm90/*.cu))
CUDA_INC := $(firstword $(dir $(wildcard $(CUDA)/include/cuda_runtime_api.h $(CUDA)/targets/*/include/cuda_runtime_api.h)))
CUDA_LIBS := -L$(CUDA_LIB) -lcudart_static $(if $(wildcard $(CUDA_LIB)libculibos.a),-lculibos) -lrt
endif

# Changes when the choice does, so that no library mixes the two.
CUDA_STAMP := $(BUILD)/cuda-$(if $(CUDA_LIB),on,off)
$(CUDA_STAMP):
	@mkdir -p $(@D); rm -f $(BUILD)/cuda-on $(BUILD)/cuda-off; touch $@

define CUDA_OBJECT
	@mkdir -p $(@D)
	$(SAY) NVCC $@
	$(Q)$(CCACHE) $(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
endef
$(BUILD)/%.cuda.o: %.cu
	$(CUDA_OBJECT)
$(BUILD)/gate/%.cuda.o: CUDA_SM := $(GATE_SM)
$(BUILD)/gate/%.cuda.o: CUDA_PACK :=
$(BUILD)/gate/%.cuda.o: %.cu
	$(CUDA_OBJECT)
# wgmma is in sm_90a alone, before and after which it does not exist.
$(BUILD)/kernels/sm90/%.cuda.o $(BUILD)/gate/kernels/sm90/%.cuda.o: \
  CUDA_GEN := -gencode arch=compute_90a,code=sm_90a
$(BUILD)/host/run/device_cuda.o $(BUILD)/host/run/comm_nccl.o $(BUILD)/host/run/comm_nccl_move.o: CFLAGS += -DDEVICE_GPU=cuda -isystem $(CUDA_INC)
$(BUILD)/kernels/emu/warp.o: override OPT := -O3 # most of the emulator's time is its matrix instructions
$(BUILD)/host/run/%.emu.o: host/run/%.c
	@mkdir -p $(@D)
	$(SAY) EMU $@
	$(Q)$(CC) $(CFLAGS) -DDEVICE_GPU=emu -Ikernels/emu -MMD -MP -c -o $@ $<

.PHONY: cuda-check
cuda-check: ## compile kernels/cuda and report registers, stack and spills (needs nvcc)
	@mkdir -p $(BUILD)/cuda; for f in kernels/cuda/*.cu; do echo "  NVCC  $$f"; \
	  $(NVCC) $(NVCCFLAGS) -Xptxas -v -c -o $(BUILD)/cuda/check.o $$f || exit 1; done
