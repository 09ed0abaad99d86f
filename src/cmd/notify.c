#include "cmd/notify.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/pgtypes.h"

#define STATUS_SIZE 512

/* A path, or '@' and a name in Linux's abstract space, where a zero byte stands for the '@'. */
static bool
address_parse(const char *text, struct sockaddr_un *ret_address, socklen_t *ret_len)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(text);

    if ((text[0] != '/' && text[0] != '@') || len < 2 || len >= sizeof address.sun_path)
        return false;
    memcpy(address.sun_path, text, len);
    if (text[0] == '@')
        address.sun_path[0] = '\0';
    *ret_address = address;
    *ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (text[0] == '/' ? 1 : 0));
    return true;
}

/* Of WATCHDOG_USEC, unless that is meant for another process. */
static int64_t
watchdog_from_environment(void)
{
    const char *interval = getenv("WATCHDOG_USEC");
    const char *process = getenv("WATCHDOG_PID");
    uint64_t microseconds;
    uint64_t pid;

    if (interval == NULL || !u64_parse(interval, &microseconds))
        return 0;
    if (process != NULL && (!u64_parse(process, &pid) || pid != (uint64_t)getpid()))
        return 0;
    /* One that is too long to count is none. */
    return microseconds > INT64_MAX ? 0 : (int64_t)microseconds / 1000;
}

void
notify_init(Notify *notify)
{
    const char *path = getenv("NOTIFY_SOCKET");

    *notify = (Notify){.fd = -1};
    if (path == NULL || !address_parse(path, &notify->address, &notify->address_len))
        return;
    notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify->fd >= 0)
        notify->watchdog_ms = watchdog_from_environment();
}

void
notify_free(Notify *notify)
{
    file_close_quietly(notify->fd);
    *notify = (Notify){.fd = -1};
}

/* A manager that does not keep up loses a message: nobody here may wait for it. */
static void
send_text(const Notify *notify, const char *text)
{
    if (notify->fd >= 0)
        (void)sendto(notify->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
                     (const struct sockaddr *)&notify->address, notify->address_len);
}

void
notify_ready(const Notify *notify)
{
    send_text(notify, "READY=1");
}

void
notify_alive(const Notify *notify)
{
    send_text(notify, "WATCHDOG=1");
}

void
notify_stopping(const Notify *notify)
{
    send_text(notify, "STOPPING=1");
}

void
notify_status(const Notify *notify, const char *fmt, ...)
{
    char text[STATUS_SIZE] = "STATUS=";
    size_t len = strlen(text);
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text + len, sizeof text - len, fmt, args);
    va_end(args);
    /* Each line would be a message of its own. */
    for (char *at = text; *at != '\0'; at++) {
        if (*at == '\n')
            *at = ' ';
    }
    send_text(notify, text);
}
