# SPDX-License-Identifier: Apache-2.0
# Included by the Makefile: stand-ins for libraries, which tests load in their place. As a newer and
# an older NCCL than what is asked for have it: without what is optional, without what is needed.
FAKE     := $(BUILD)/tests/fake
FAKE_LIB := $(FAKE)/libnccl.so.2 $(FAKE)/plain/libnccl.so.2 $(FAKE)/old/libnccl.so.2
$(FAKE)/plain/libnccl.so.2: FAKE_FLAGS := -DFAKE_NCCL_PLAIN
$(FAKE)/old/libnccl.so.2: FAKE_FLAGS := -DFAKE_NCCL_OLD
$(FAKE_LIB): tests/fake/nccl.c host/run/comm_nccl.h kernels/emu/runtime.h
	@mkdir -p $(@D)
	$(SAY) FAKE $@
	$(Q)$(CC) $(filter-out -Wmissing-prototypes,$(CFLAGS)) $(FAKE_FLAGS) -shared -o $@ $< -ldl
tests: $(FAKE_LIB)
