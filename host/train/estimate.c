/* SPDX-License-Identifier: Apache-2.0
 * The laws with their constants as published. */
#include "host/train/estimate.h"
#include <math.h>
#include <stddef.h>

/* L = [(Nc / N)^(aN / aD) + Dc / D]^aD */
static double kaplan(double n, double d) {
    return pow(pow(6.4e13 / n, 0.076 / 0.103) + 1.8e13 / d, 0.103);
}

/* L = E + A / N^a + B / D^b */
static double chinchilla(double n, double d) {
    return 1.69 + 406.4 / pow(n, 0.34) + 410.7 / pow(d, 0.28);
}

static double epoch(double n, double d) {
    return 1.8172 + 482.01 / pow(n, 0.3478) + 2085.43 / pow(d, 0.3658);
}

const scaling_law scaling_laws[] = {
    {"Kaplan", "Kaplan et al., 2020, eq. 1.5", kaplan},
    {"Chinchilla", "Hoffmann et al., 2022, approach 3", chinchilla},
    {"Epoch", "Besiroglu et al., 2024, refit of approach 3", epoch},
    {NULL, NULL, NULL},
};

double estimate_flops(double n, double d) {
    return 6 * n * d;
}

double estimate_pf_days(double flops) {
    return flops / (1e15 * 86400);
}

double estimate_days(double flops, double gpus, double tflops, double mfu) {
    return flops / (gpus * tflops * 1e12 * mfu) / 86400;
}
