/*
 * The entry point of a fuzz target, as libFuzzer and replay.c call it.
 *
 * It returns 0 whatever the input is like and aborts when a property is broken. Inputs are plain
 * files of the format (no leading control bytes), so that any real file can be a seed.
 */
#ifndef PGSTOW_FUZZ_H
#define PGSTOW_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
