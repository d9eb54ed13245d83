/* SPDX-License-Identifier: Apache-2.0
 * Numbers as text, the same in every locale. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NUM_TEXT = 40 }; /* longest shortest form and its NUL */

/* Correctly rounded value of a NUL-terminated decimal; the caller has checked its grammar. */
double num_double(const char *text);
float num_float(const char *text);
/* Shortest decimal that reads back as x, which is finite; small integers as such. */
size_t num_print_double(char out[NUM_TEXT], double x);
size_t num_print_float(char out[NUM_TEXT], float x);
