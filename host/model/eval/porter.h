/* SPDX-License-Identifier: Apache-2.0
 * Porter's suffix stripping ("An algorithm for suffix stripping", Program 14(3), 1980) with the
 * changes NLTK makes to it, which is the stemmer rouge-score uses. */
#pragma once

/* Stems word[0..n) in place, lower-case letters and digits, and returns the new length. The buffer
 * holds n + 1 bytes. */
int porter_stem(char *word, int n);
