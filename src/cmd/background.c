#include "cmd/background.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

#include "common/file.h"
#include "common/pgtypes.h"

#define THREADS_MAX 4

size_t
background_threads(size_t processors)
{
    return processors < 1 ? 1 : processors < THREADS_MAX ? processors : THREADS_MAX;
}

static void
end_quietly(int signo)
{
    (void)signo;
    _exit(0);
}

/* A server that is the first process of its container takes over what others leave behind, and
 * older ones restart when one of those ends with anything but 0 or 1. */
static void
end_quietly_on_signals(void)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};

    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        (void)signal(signals[i], end_quietly);
}

/* What the server has open, and hands down to its commands before 16, must not stay open with us:
 * its log, sockets, removed files. */
static void
close_inherited(int keep)
{
    int nowhere = open("/dev/null", O_RDWR);
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;

    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO && nowhere >= 0; fd++)
        (void)dup2(nowhere, fd);
    while (dir != NULL && (entry = dir_next(dir)) != NULL) {
        uint32_t number;
        int fd = u32_parse(entry->d_name, &number) ? (int)number : -1;

        if (fd > STDERR_FILENO && fd != keep && fd != dirfd(dir))
            (void)close(fd);
    }
    if (dir != NULL)
        (void)closedir(dir);
}

bool
background_begin(int keep)
{
    if (fork() != 0)
        return false;
    end_quietly_on_signals();
    close_inherited(keep);
    return true;
}

void
background_end(void)
{
    _exit(0);
}
