#include "support/huge_allocation.h"

#include <stdint.h>

const volatile size_t huge_allocation = SIZE_MAX / 2;

/* Sanitizers look for these. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);

const char *
__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

const char *
__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}
