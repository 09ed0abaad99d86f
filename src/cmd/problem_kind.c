#include "cmd/problem_kind.h"

const char *
problem_kind_name(ProblemKind kind)
{
    switch (kind) {
    case PROBLEM_MISSING:
        return "missing";
    case PROBLEM_EXTRA:
        return "extra";
    case PROBLEM_SIZE:
        return "size";
    case PROBLEM_CHECKSUM:
        return "checksum";
    case PROBLEM_UNREADABLE:
        return "unreadable";
    case PROBLEM_FILE_TYPE:
        return "file_type";
    case PROBLEM_SYSTEM_ID:
        return "system_identifier";
    case PROBLEM_CONTROL:
        return "control_file";
    case PROBLEM_PAGE:
        return "page";
    case PROBLEM_PAGE_CHANGED:
        return "page_changed";
    case PROBLEM_DIRECTORY:
        return "missing_directory";
    case PROBLEM_PAGE_DIGESTS:
        return "page_digests";
    case PROBLEM_WAL:
        return "wal";
    }
    return "unknown";
}
