/*
 * What reading the socket without libpq would bring: asks for a base backup in the protocol's own
 * words, reads all that the server sends and throws it away, like bench/floor.c, with reads of any
 * size and no copy. Servers 15+ that trust the user; TLS without looking at certificates.
 *
 *     receive HOST PORT USER KIB [tls]        HOST with a slash: the directory of the socket
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PROTOCOL_3   ((uint32_t)3 << 16)
#define SSL_REQUEST  ((uint32_t)80877103)
#define HEADER_SIZE  5 /* a message's type and length */
#define MESSAGE_ROOM 512

static const char command[] = "BASE_BACKUP (LABEL 'floor', PROGRESS false, CHECKPOINT 'fast',"
                              " WAIT false, MANIFEST 'yes', TARGET 'client')";

typedef struct Peer {
    int fd;
    SSL *tls; /* NULL: none */
    char *buffer;
    size_t size;

    /* ---- where in the stream of messages ---- */
    uint8_t header[HEADER_SIZE];
    size_t have;      /* of the header */
    uint64_t left;    /* of the message */
    unsigned readies; /* how often the server was ready for a query */
    uint64_t bytes;
} Peer;

static void
fail(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static void
send_all(const Peer *peer, const void *data, size_t len)
{
    ssize_t sent =
        peer->tls != NULL ? SSL_write(peer->tls, data, (int)len) : send(peer->fd, data, len, 0);

    if (sent != (ssize_t)len)
        fail("send");
}

static size_t
receive_some(const Peer *peer)
{
    ssize_t got = peer->tls != NULL ? SSL_read(peer->tls, peer->buffer, (int)peer->size)
                                    : recv(peer->fd, peer->buffer, peer->size, 0);

    if (got <= 0)
        fail("receive");
    return (size_t)got;
}

static void
put_u32(char *at, uint32_t value)
{
    const uint32_t network = htonl(value);

    memcpy(at, &network, sizeof network);
}

/* ---- connecting ---- */

static void
connect_to(Peer *peer, const char *host, const char *port)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in remote = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
    const struct sockaddr *address = (const struct sockaddr *)&remote;
    socklen_t size = sizeof remote;

    if (host[0] == '/') {
        (void)snprintf(local.sun_path, sizeof local.sun_path, "%s/.s.PGSQL.%s", host, port);
        address = (const struct sockaddr *)&local;
        size = sizeof local;
    } else if (inet_pton(AF_INET, host, &remote.sin_addr) != 1) {
        fail(host);
    }
    peer->fd = socket(address->sa_family, SOCK_STREAM, 0);
    if (peer->fd < 0 || connect(peer->fd, address, size) != 0)
        fail("connect");
}

static void
begin_tls(Peer *peer)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    char request[8];
    char answer;

    put_u32(request, sizeof request);
    put_u32(request + 4, SSL_REQUEST);
    send_all(peer, request, sizeof request);
    if (recv(peer->fd, &answer, 1, 0) != 1 || answer != 'S' || context == NULL)
        fail("tls");
    SSL_CTX_set_read_ahead(context, 1);
    peer->tls = SSL_new(context);
    if (peer->tls == NULL || SSL_set_fd(peer->tls, peer->fd) != 1 || SSL_connect(peer->tls) != 1)
        fail("tls");
}

static void
send_startup(const Peer *peer, const char *user)
{
    char message[MESSAGE_ROOM] = {0};
    size_t len = 8;

    len += (size_t)snprintf(message + len, sizeof message - len, "user%c%s%creplication%ctrue%c",
                            '\0', user, '\0', '\0', '\0');
    len++; /* and an empty name */
    put_u32(message, (uint32_t)len);
    put_u32(message + 4, PROTOCOL_3);
    send_all(peer, message, len);
}

static void
send_query(const Peer *peer)
{
    char message[1 + 4 + sizeof command] = {'Q'};

    put_u32(message + 1, 4 + sizeof command);
    memcpy(message + HEADER_SIZE, command, sizeof command);
    send_all(peer, message, sizeof message);
}

/* ---- reading ---- */

static void
take_header(Peer *peer)
{
    uint32_t network;

    memcpy(&network, peer->header + 1, sizeof network);
    peer->left = ntohl(network) - 4;
    peer->have = 0;
    if (peer->header[0] == 'E') {
        (void)fprintf(stderr, "receive: the server refused\n");
        exit(EXIT_FAILURE);
    }
    if (peer->header[0] == 'Z')
        peer->readies++;
}

static void
take(Peer *peer, const char *data, size_t len)
{
    while (len > 0) {
        size_t step;

        if (peer->left > 0) {
            step = len < peer->left ? len : (size_t)peer->left;
            peer->left -= step;
        } else {
            step = HEADER_SIZE - peer->have;
            step = step < len ? step : len;
            memcpy(peer->header + peer->have, data, step);
            peer->have += step;
            if (peer->have == HEADER_SIZE)
                take_header(peer);
        }
        data += step;
        len -= step;
    }
}

static void
read_until_ready(Peer *peer, unsigned readies)
{
    while (peer->readies < readies || peer->left > 0) {
        size_t got = receive_some(peer);

        peer->bytes += got;
        take(peer, peer->buffer, got);
    }
}

int
main(int argc, char **argv)
{
    Peer peer = {.fd = -1};

    if (argc < 5) {
        (void)fprintf(stderr, "usage: receive HOST PORT USER KIB [tls]\n");
        return EXIT_FAILURE;
    }
    peer.size = (size_t)strtoul(argv[4], NULL, 10) * 1024;
    peer.buffer = malloc(peer.size);
    if (peer.buffer == NULL)
        fail("memory");
    connect_to(&peer, argv[1], argv[2]);
    if (argc > 5)
        begin_tls(&peer);
    send_startup(&peer, argv[3]);
    read_until_ready(&peer, 1);
    send_query(&peer);
    read_until_ready(&peer, 2);
    (void)printf("%llu bytes\n", (unsigned long long)peer.bytes);
    free(peer.buffer);
    return EXIT_SUCCESS;
}
