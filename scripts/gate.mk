# SPDX-License-Identifier: Apache-2.0
# Included by the Makefile: what can be known of kernels/cuda without a GPU, and looking inside.

.PHONY: gate gpu-model sass ncu
CU_OBJ   := $(patsubst %.cu,$(BUILD)/gate/%.cuda.o,$(wildcard kernels/cuda/*.cu kernels/sm90/*.cu))

gate: $(BUILD)/checkkernels ## hold compiled CUDA kernels to their claims, all architectures (needs nvcc)
	@scripts/setup --cuda-tools
	@$(MAKE) --no-print-directory gate-objects
	@scripts/sass-gate --self-test
	@scripts/sass-gate --checkkernels $(BUILD)/checkkernels --cache $(BUILD)/gate $(CU_OBJ)
	@scripts/gpu-model --checkkernels $(BUILD)/checkkernels --cache $(BUILD)/gate $(CU_OBJ)

# Of the streams' orders of threads: ascending, descending, drawn. Cases of every row and type in each.
EMU_SEEDS ?= 0 1 7
EMU_EACH  ?= 20
.PHONY: emu-asan
emu-asan: ## emulated rows on hostile shapes under AddressSanitizer, three orders of threads
	@$(MAKE) --no-print-directory -j"$$(nproc)" BUILD=$(BUILD)/asan OPT=-O1 SAN=address,undefined \
	  $(BUILD)/asan/checkkernels
	@for seed in $(EMU_SEEDS); do echo "  WEFT_EMU_SEED=$$seed"; \
	  WEFT_EMU_SEED=$$seed UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(BUILD)/asan/checkkernels \
	    --backend emu --threads 1 --seed $$seed --jobs "$$(nproc)" --timeout 900 --each $(EMU_EACH) || exit 1; done

gpu-model: $(BUILD)/checkkernels gate-objects ## what the big kernels should reach on an H200
	@scripts/gpu-model -v --checkkernels $(BUILD)/checkkernels --cache $(BUILD)/gate $(CU_OBJ)

.PHONY: gate-objects
gate-objects: $(CU_OBJ)

OP ?= matmul
sass: gate-objects ## the machine code of an op's kernels on sm_90: make sass OP=matmul
	@scripts/setup --cuda-tools
	@scripts/sass.py $(filter $(BUILD)/gate/kernels/cuda/$(OP)%.o $(BUILD)/gate/kernels/sm90/$(OP)%.o,$(CU_OBJ))

ncu: $(BUILD)/checkkernels ## Nsight Compute on an op's benchmarks (needs a GPU): make ncu OP=matmul
	ncu --set full --target-processes all -f -o $(BUILD)/ncu-$(OP) \
	  $(BUILD)/checkkernels --bench --backend cuda --op $(OP)

-include $(CU_OBJ:.o=.d)
