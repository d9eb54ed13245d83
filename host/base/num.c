/* SPDX-License-Identifier: Apache-2.0
 * Numbers as text. An embedding program may have set any locale, so the C library is asked in the
 * "C" locale when reading, and its decimal separator is replaced when printing. */
#include "host/base/num.h"
#include <float.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void c_locale_open(void) {
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

double num_double(const char *text) {
    pthread_once(&c_locale_once, c_locale_open);
    return strtod_l(text, NULL, c_locale);
}

float num_float(const char *text) {
    pthread_once(&c_locale_once, c_locale_open);
    return strtof_l(text, NULL, c_locale);
}

/* Whatever stands between the digits is this locale's separator, perhaps of several bytes. */
static size_t with_point(char *s) {
    char *to = s;
    for (const char *from = s; *from;) {
        size_t n = strspn(from, "0123456789+-e");
        memmove(to, from, n);
        to += n;
        from += n;
        if (*from)
            *to++ = '.';
        from += strcspn(from, "0123456789+-e");
    }
    *to = 0;
    return (size_t)(to - s);
}

static size_t print_integer(char *out, double x) {
    if (x == 0 && signbit(x))
        return (size_t)snprintf(out, NUM_TEXT, "-0.0");
    return (size_t)snprintf(out, NUM_TEXT, "%lld", (long long)x);
}

/* "%.15g" already is the shortest form wherever 15 digits are enough (any decimal of 15 digits
 * survives a normal double), so only 16 and 17 are left to try; for float the same from 6 on. */
size_t num_print_double(char out[NUM_TEXT], double x) {
    if (fabs(x) < 1e15 && x == trunc(x))
        return print_integer(out, x);
    size_t n = 0;
    for (int digits = fabs(x) < DBL_MIN ? 1 : 15; digits <= 17; digits++) {
        snprintf(out, NUM_TEXT, "%.*g", digits, x);
        n = with_point(out);
        if (num_double(out) == x)
            break;
    }
    return n;
}

size_t num_print_float(char out[NUM_TEXT], float x) {
    if (fabsf(x) < 1e6f && x == truncf(x))
        return print_integer(out, (double)x);
    size_t n = 0;
    for (int digits = fabsf(x) < FLT_MIN ? 1 : 6; digits <= 9; digits++) {
        snprintf(out, NUM_TEXT, "%.*g", digits, (double)x);
        n = with_point(out);
        if (num_float(out) == x)
            break;
    }
    return n;
}
