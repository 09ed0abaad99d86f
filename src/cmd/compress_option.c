#include "cmd/compress_option.h"

#include <stdlib.h>
#include <string.h>

#include "cmd/log.h"

bool
compress_option_set(CompressOption *option, const char *value)
{
    char *text = strdup(value);
    char *end;
    long level;

    compress_option_free(option);
    if (text == NULL) {
        log_error("out of memory");
        return false;
    }
    option->text = text;
    level = strtol(text, &end, 10);
    if (*end == '\0') {
        option->method = level == 0 ? "none" : "gzip";
        option->detail = level == 0 ? NULL : text;
        return true;
    }
    option->method = text;
    end = strchr(text, ':');
    if (end != NULL) {
        *end = '\0';
        option->detail = end + 1;
    }
    return true;
}

bool
compress_option_parse(const CompressOption *option, Compression *ret_compression)
{
    CompressionMethod method = COMPRESSION_NONE;
    Error err = ERROR_INIT;

    if (option->method != NULL && !compression_method_parse(option->method, &method)) {
        log_error("unrecognized compression algorithm: \"%s\"", option->method);
        return false;
    }
    if (!compression_parse(method, option->detail, ret_compression, &err)) {
        log_error("invalid compression specification: %s", err.message);
        return false;
    }
    return true;
}

void
compress_option_free(CompressOption *option)
{
    free(option->text);
    *option = (CompressOption){.text = NULL};
}
