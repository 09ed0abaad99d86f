/*
 * Runs a fuzz target over files and directories of inputs: the ordinary test run replays the corpus
 * without a fuzzer.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "fuzz/fuzz.h"

#define REPLAY_LIMIT ((uint64_t)64 * 1024 * 1024)

static bool
replay_file(const char *path, Error *err)
{
    Buf input = BUF_INIT;
    uint8_t *exact;

    if (!file_load(path, REPLAY_LIMIT, &input, err))
        return false;
    /* A block of exactly its size: a sanitizer then sees a read beyond the input. */
    exact = mem_alloc(input.len, err);
    if (exact != NULL) {
        if (input.len > 0)
            memcpy(exact, input.data, input.len);
        (void)LLVMFuzzerTestOneInput(exact, input.len);
    }
    free(exact);
    buf_free(&input);
    return exact != NULL;
}

static int
visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* In order of their names, so that a failure is always the same one. */
static bool
replay_directory(const char *path, size_t *count, Error *err)
{
    struct dirent **names = NULL;
    int found = scandir(path, &names, visible, alphasort);
    bool ok = true;

    if (found < 0)
        return error_set(err, ERR_SYSTEM, "could not read directory \"%s\"", path);
    for (int i = 0; i < found; i++) {
        char *file = ok ? path_join(path, names[i]->d_name, err) : NULL;

        ok = file != NULL && replay_file(file, err);
        if (ok)
            ++*count;
        free(file);
        free(names[i]);
    }
    free(names);
    return ok;
}

int
main(int argc, char **argv)
{
    Error err = ERROR_INIT;
    size_t count = 0;

    for (int i = 1; i < argc; i++) {
        struct stat st;
        bool directory = stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode);

        if (directory ? !replay_directory(argv[i], &count, &err) : !replay_file(argv[i], &err)) {
            (void)fprintf(stderr, "%s: %s\n", argv[0], err.message);
            return 1;
        }
        if (!directory)
            count++;
    }
    if (count == 0) {
        (void)fprintf(stderr, "%s: no inputs\n", argv[0]);
        return 1;
    }
    (void)printf("%zu inputs\n", count);
    return 0;
}
