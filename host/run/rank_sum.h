/* SPDX-License-Identifier: Apache-2.0
 * rank_sum: the steps by which ranks add up what each has a part of. Data moves, the sum is
 * leaf_sum's tree over ranks, so it has the bits that one rank's own tree would have
 * (docs/NUMERICS.md). */
#pragma once
#include "host/run/plan.h"

typedef struct {
    weft_tensor part;            /* f32[T, N]: this rank's sum over its leaves */
    weft_tensor bias, res, rows; /* as leaf_sum has them; may be absent */
    weft_tensor y; /* [T, N], of every rank; or [T / ranks, N]: this one's rows alone, and so may
                      res be */
    int ranks, rank, group;
    int copies;     /* as many neighbouring ranks have the same part, which counts once; 0: one */
    bool in_halves; /* see below; without it, messages choose */
    int layer;
    const char *tag;
} rank_sum;

/* Appends y = tree sum of the parts, then + bias + res. Short messages go from everyone to everyone
 * at once, (ranks - 1) T N fp32 numbers sent by each. Long ones in halves, where ranks divide T:
 * every rank sums the rows T / ranks that are its own and hands out the result, (ranks - 1) / ranks
 * T N numbers in fp32 and as many in y's type, or none of these where y is its own rows alone;
 * nothing of this counts true rows. */
void rank_sum_push(plan_builder *b, const rank_sum *s);
