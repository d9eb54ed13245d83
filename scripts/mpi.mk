# SPDX-License-Identifier: Apache-2.0
# Included by the Makefile: libweft_mpi.so, where Open MPI's development files are (`make MPI=0`
# leaves it out). It is loaded by `--comm mpi` alone.
MPI      ?= $(shell pkg-config --exists ompi-c 2>/dev/null && echo 1)
MPI_LIB  := $(if $(filter 1,$(MPI)),$(BUILD)/libweft_mpi.so)
NOT_SRC  += host/run/comm_mpi.c
all: $(MPI_LIB)
$(BUILD)/libweft_mpi.so: host/run/comm_mpi.c host/run/comm_mpi.h
	@mkdir -p $(@D)
	$(SAY) MPI $@
	$(Q)$(CC) $(filter-out -fsanitize%,$(CFLAGS)) $(shell pkg-config --cflags ompi-c) -shared \
	  -o $@ $< $(LDFLAGS) $(shell pkg-config --libs ompi-c)
install: install-mpi
.PHONY: install-mpi
install-mpi: all
	$(if $(MPI_LIB),install -d $(DESTDIR)$(PREFIX)/lib && install -m 755 $(MPI_LIB) $(DESTDIR)$(PREFIX)/lib/)
