/* SPDX-License-Identifier: Apache-2.0
 * estimate: what the scaling laws say of a model and a number of tokens, and how long it takes.
 * Pure functions; N parameters, D tokens. */
#pragma once

/* A published fit of the loss in nats a token. */
typedef struct {
    const char *name, *source;
    double (*loss)(double n, double d);
} scaling_law;

extern const scaling_law scaling_laws[]; /* ended by name NULL */

/* Operations of training on D tokens by the rule 6 N D (Kaplan et al., 2020), and that number in
 * PF-days: 10^15 operations a second for a day. */
double estimate_flops(double n, double d);
double estimate_pf_days(double flops);
/* Days on `gpus` devices of `tflops` peak at the share `mfu` of it. */
double estimate_days(double flops, double gpus, double tflops, double mfu);
