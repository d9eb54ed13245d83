/* SPDX-License-Identifier: Apache-2.0
 * One list of what can go wrong and the exit code each becomes. */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif

/* X(name, exit code, words) */
#define WEFT_STATUSES(X) \
    X(OK, 0, "ok") \
    X(AGAIN, 0, "not now: no room; nothing was changed") \
    X(USAGE, 2, "bad argument or configuration") \
    X(UNSUPPORTED, 2, "valid, but no kernel or family here does it") \
    X(BAD_FILE, 3, "bad input file") \
    X(NO_MEMORY, 4, "not enough memory") \
    X(IO, 5, "input/output error or disk full") \
    X(NO_CHECKPOINT, 6, "no valid checkpoint") \
    X(PEER, 7, "a peer failed or disagrees") \
    X(DEVICE, 8, "GPU missing or faulty") \
    X(BIND, 9, "cannot bind the address") \
    X(CANCELLED, 130, "cancelled by the caller")

#define WEFT_STATUS_ENUM_(name, code, words) WEFT_##name,
typedef enum { WEFT_STATUSES(WEFT_STATUS_ENUM_) WEFT_STATUS_COUNT } weft_status;

#ifdef __cplusplus
}
#endif
