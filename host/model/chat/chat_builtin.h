/* SPDX-License-Identifier: Apache-2.0
 * The built-in chat templates. */
#pragma once

const char *chat_builtin_text(const char *name); /* NULL: no such name */
const char *chat_builtin_name(int i);            /* in order; NULL behind the last */
