#include "tests/check/check.h"
int check_bench(check_state *k, const char *a, const char *b, bool json){(void)k;(void)a;(void)b;(void)json;return 0;}
