# SPDX-License-Identifier: Apache-2.0
# Tools for a machine with a GPU that only nvcc builds: `make gpu`.

.PHONY: gpu
gpu: ## all with the rows of cuda, and the probe of the GPU's matrix instructions (needs nvcc)
	@$(MAKE) --no-print-directory WITH_CUDA=1 all tests $(BUILD)/gpu-probe

# wgmma exists for sm_90a alone; elsewhere the probe leaves it out.
$(BUILD)/gpu-probe: bench/probe.cu bench/probe_kernels.cuh bench/probe_model.h bench/wgmma.cuh
	$(SAY) NVCC $@
	$(Q)$(NVCC) -std=c++17 -O2 -fmad=false -gencode arch=compute_80,code=sm_80 \
	  -gencode arch=compute_90a,code=sm_90a -Iinclude -I. -Ikernels/lib -DWEFT_CU_NS=weft_cuda \
	  -cudart static -o $@ $<
