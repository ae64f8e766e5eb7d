/*
 * A client of the sysmem daemon in C, written from docs/protocol.md alone: messages, descriptors, calls, buffers.
 *
 *     cc -std=c11 -Wall -Wextra -o sysmem_client sysmem_client.c
 *     python -m sysmem.testing.conformance ./sysmem_client
 *
 * The upper part is the client. The lower part, from "The agent", does with it what it is told on stdin, so that the
 * conformance suite can prove it right; docs/conformance.md describes the commands.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 16, MAX_MESSAGE = 65536, HANDLE_TAG = 0x7a5d, MAX_BUFFERS = 128, MAX_TOKENS = 64 };
enum { MAX_FDS = 253 /* of one datagram */, MAX_ANSWER_FDS = 256 /* of one answer, in all its datagrams */ };

#define ALLOCATE_SHARED_COLLECTION UINT64_C(0x11a19ff51f0b49c1)
#define BIND_SHARED_COLLECTION UINT64_C(0x550916b0dc1d5b4e)
#define SYNC UINT64_C(0x11ac2555cf575b54)
#define RELEASE UINT64_C(0x6a5cae7d6d6e04c6)
#define SET_NAME UINT64_C(0x0b41f1624f48c1e9)
#define GET_BUFFER_COLLECTION_ID UINT64_C(0x77d19a494b78ba8c)
#define DUPLICATE_SYNC UINT64_C(0x1c1af9919d1ca45c)
#define DUPLICATE UINT64_C(0x73e78f92ee7fb887)
#define SET_CONSTRAINTS UINT64_C(0x1fde0f19d650197b)
#define WAIT_FOR_ALL_BUFFERS_ALLOCATED UINT64_C(0x062300344b61404e)
#define SET_EXPLAIN UINT64_C(0x301e32c7b4c85914)
#define ON_EXPLAINED UINT64_C(0x18dab8d80b5a4796)
#define CHECK_ALL_BUFFERS_ALLOCATED UINT64_C(0x35a5fe77ce939c10)

/* Ends the program when there is no memory, or no room in a message. */
static void *must(void *memory) { return memory ? memory : (abort(), memory); }

static void close_all(int *fds, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0) close(fds[i]);
}

/* --- CBOR: writing -------------------------------------------------------------------------------------------- */

/* A message as it is made: header, body, and the descriptors, which stay the caller's. */
struct message {
    uint8_t data[1024];
    size_t length, fd_count;
    int fds[2];
};

static void put_bytes(struct message *m, const void *bytes, size_t count) {
    memcpy(must(m->length + count <= sizeof m->data ? m->data + m->length : NULL), bytes, count);
    m->length += count;
}

/* A major type with its number in the shortest form. */
static void put(struct message *m, unsigned major, uint64_t value) {
    uint8_t head[9];
    unsigned size = value < 24 ? 0 : value <= UINT8_MAX ? 1 : value <= UINT16_MAX ? 2 : value <= UINT32_MAX ? 4 : 8;
    static const uint8_t code[] = {[1] = 24, [2] = 25, [4] = 26, [8] = 27};
    head[0] = (uint8_t)(major << 5 | (size ? code[size] : value));
    for (unsigned i = 0; i < size; i++) head[1 + i] = (uint8_t)(value >> 8 * (size - 1 - i));
    put_bytes(m, head, 1 + size);
}

static void put_uint(struct message *m, uint64_t value) { put(m, 0, value); }

/* The beginning of a table with so many fields, and the number of the first; its value comes next. */
static void put_table(struct message *m, uint64_t fields, uint64_t first) {
    put(m, 5, fields);
    put_uint(m, first);
}

/* A further field of a table: its number, then its value. */
static void put_field(struct message *m, uint64_t number, uint64_t value) {
    put_uint(m, number);
    put_uint(m, value);
}

static void put_handle(struct message *m, int fd) {
    put(m, 6, HANDLE_TAG);
    put_uint(m, m->fd_count);
    m->fds[m->fd_count++] = fd;
}

static void put_header(struct message *m, uint64_t ordinal) {
    uint8_t head[HEADER] = {[4] = 0x02, [5] = 0x00, [6] = 0x80, [7] = 1};
    for (unsigned i = 0; i < 8; i++) head[8 + i] = (uint8_t)(ordinal >> 8 * i);
    m->length = m->fd_count = 0;
    put_bytes(m, head, HEADER);
}

/* --- CBOR: reading -------------------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at, *end;
    bool bad; /* something was not as it must be; every number read from then on is 0 */
};

/* The next item's major type and number. */
static unsigned take(struct reader *r, uint64_t *value) {
    *value = 0;
    r->bad |= r->at >= r->end;
    if (r->bad) return 0;
    unsigned major = *r->at >> 5, low = *r->at & 31, size = low < 24 ? 0 : low > 27 ? 99 : 1u << (low - 24);
    r->at++;
    r->bad |= size > (size_t)(r->end - r->at);
    if (r->bad) return 0;
    if (!size) *value = low;
    while (size--) *value = *value << 8 | *r->at++;
    return major;
}

/* The number of an item that must have this major type. */
static uint64_t take_as(struct reader *r, unsigned major) {
    uint64_t value;
    r->bad |= take(r, &value) != major;
    return r->bad ? 0 : value;
}

static void skip(struct reader *r, unsigned depth) {
    uint64_t value;
    unsigned major = take(r, &value);
    bool has_content = major >= 2 && major <= 5; /* bytes, text, array, map */
    r->bad |= depth > 16 || (has_content && value > (uint64_t)(r->end - r->at));
    if (r->bad) return;
    if (major == 2 || major == 3) r->at += value;
    if (major == 6) skip(r, depth + 1);
    if (major == 4 || major == 5)
        for (uint64_t items = major == 5 ? 2 * value : value; items && !r->bad; items--) skip(r, depth + 1);
}

static bool next_field(struct reader *r, uint64_t *left, uint64_t *field) {
    if (r->bad || !*left) return false;
    --*left;
    *field = take_as(r, 0);
    return true;
}

static bool next_wanted(struct reader *r, uint64_t *left, uint64_t wanted) {
    uint64_t field;
    while (next_field(r, left, &field)) {
        if (field == wanted) return true;
        skip(r, 0);
    }
    return false;
}

/* For each field of a table, whose value must then be read or skipped; and for one field, the others skipped. */
#define FIELDS(r, field) for (uint64_t field, left = take_as(r, 5); next_field(r, &left, &field);)
#define FIELD(r, wanted) for (uint64_t left = take_as(r, 5); next_wanted(r, &left, wanted);)

/* --- channels and calls --------------------------------------------------------------------------------------- */

/* A call and its answer, which may come in several datagrams. */
struct call {
    struct call *next;
    char name[32]; /* for the program */
    uint64_t ordinal;
    uint32_t txid;
    bool answered;
    uint8_t *body;
    size_t length, fd_count;
    int fds[MAX_ANSWER_FDS];
};

struct buffers {
    size_t count;
    uint64_t size;
    int vmo[MAX_BUFFERS], close_weak_asap[MAX_BUFFERS];
    uint64_t start[MAX_BUFFERS];
};

struct channel {
    struct channel *next;
    char name[32]; /* for the program */
    int fd;
    bool ended; /* the daemon has closed its end, or broken the protocol */
    uint32_t last_txid;
    struct call *calls;
    struct buffers buffers; /* of a collection */
    char reason[256];       /* of the error in the next answer, or of the end */
};

static void free_call(struct channel *channel, struct call *call) {
    struct call **at = &channel->calls;
    while (*at != call) at = &(*at)->next;
    *at = call->next;
    close_all(call->fds, call->fd_count);
    free(call->body);
    free(call);
}

static void close_buffers(struct buffers *b) {
    close_all(b->vmo, b->count);
    close_all(b->close_weak_asap, b->count);
    b->count = 0;
}

/* Takes one datagram, and the descriptors in it, to the call that it answers. False: the daemon broke the protocol. */
static bool arrived(struct channel *channel, const uint8_t *data, size_t length, int *fds, size_t fd_count) {
    uint64_t txid = 0, ordinal = 0;
    if (length < HEADER || data[4] != 0x02 || data[5] > 1 || data[6] != 0x80 || data[7] != 1) return false;
    for (unsigned i = 0; i < 4; i++) txid |= (uint64_t)data[i] << 8 * i;
    for (unsigned i = 0; i < 8; i++) ordinal |= (uint64_t)data[8 + i] << 8 * i;
    if (!txid) { /* an event; those that this client doesn't know are ignored */
        struct reader r = {data + HEADER, data + length, false};
        close_all(fds, fd_count);
        if (ordinal == ON_EXPLAINED)
            FIELD(&r, 2) {
                int count = (int)take_as(&r, 3);
                snprintf(channel->reason, sizeof channel->reason, "%.*s", r.bad ? 0 : count, (const char *)r.at);
                r.at += count;
            }
        return true;
    }
    struct call *call = channel->calls;
    while (call && (call->txid != txid || call->answered)) call = call->next;
    if (!call || call->fd_count + fd_count > MAX_ANSWER_FDS) return false;
    memcpy(call->fds + call->fd_count, fds, fd_count * sizeof *fds);
    call->fd_count += fd_count;
    if (data[5] == 0) { /* no more of it follows */
        call->answered = true;
        call->length = length - HEADER;
        call->body = must(malloc(call->length + 1));
        memcpy(call->body, data + HEADER, call->length);
    }
    return true;
}

/* Room for the descriptors of a datagram. */
union control {
    struct cmsghdr header;
    uint8_t space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
};

/* Receives one datagram. As recvmsg(); `fds` has room for MAX_FDS. */
static ssize_t receive_datagram(int fd, uint8_t *data, size_t room, int *fds, size_t *fd_count) {
    union control control;
    struct iovec part = {data, room};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *fd_count = 0;
    if (length < 0) return length;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *fd_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), *fd_count * sizeof(int));
        }
    return message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? 0 : length;
}

/* Takes what has come, without waiting. */
static void receive(struct channel *channel) {
    static uint8_t data[MAX_MESSAGE];
    int fds[MAX_FDS];
    size_t fd_count;
    while (!channel->ended) {
        ssize_t length = receive_datagram(channel->fd, data, sizeof data, fds, &fd_count);
        if (length < 0 && errno == ECONNRESET)
            continue; /* what came before the end is still there */
        if (length < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (length <= 0 || !arrived(channel, data, (size_t)length, fds, fd_count)) {
            close_all(fds, fd_count);
            channel->ended = true;
        }
    }
}

static void wait_for(struct channel *channel, short events) {
    struct pollfd ready = {channel->fd, (short)(events | POLLIN), 0};
    poll(&ready, 1, -1);
    receive(channel);
}

/* Sends a message, waiting while the channel is full. False: the channel has ended. */
static bool send_message(struct channel *channel, const struct message *m) {
    union control control;
    struct iovec part = {(void *)m->data, m->length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (m->fd_count) {
        memset(&control, 0, sizeof control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int) * m->fd_count);
        memcpy(CMSG_DATA(&control.header), m->fds, sizeof(int) * m->fd_count);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * m->fd_count);
    }
    while (!channel->ended) {
        if (sendmsg(channel->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
        if (errno != EAGAIN && errno != EWOULDBLOCK) break;
        wait_for(channel, POLLOUT);
    }
    return false;
}

/* Sends a request that is answered. NULL: the channel has ended. */
static struct call *begin(struct channel *channel, struct message *m, uint64_t ordinal) {
    struct call *call = must(calloc(1, sizeof *call));
    channel->last_txid = channel->last_txid % 0x7fffffff + 1;
    call->txid = channel->last_txid;
    call->ordinal = ordinal;
    call->next = channel->calls;
    channel->calls = call;
    for (unsigned i = 0; i < 4; i++) m->data[i] = (uint8_t)(call->txid >> 8 * i);
    if (send_message(channel, m)) return call;
    free_call(channel, call);
    return NULL;
}

/* Waits for the answer of a call. False: there will be none, because the channel has ended. */
static bool answer_of(struct channel *channel, struct call *call) {
    while (call && !call->answered && !channel->ended) wait_for(channel, 0);
    return call && call->answered;
}

/* A descriptor of an answer, which is the caller's from then on. -1: there is none. */
static int take_handle(struct reader *r, struct call *call) {
    r->bad |= take_as(r, 6) != HANDLE_TAG;
    uint64_t index = take_as(r, 0);
    if (r->bad || index >= call->fd_count) return -1;
    int fd = call->fds[index];
    call->fds[index] = -1;
    return fd;
}

/* Makes a pair, and sends its one end as the value of a request's last field. The other end, or -1. */
static int open_channel(struct channel *channel, struct message *m) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return -1;
    put_handle(m, pair[1]);
    bool sent = send_message(channel, m);
    close(pair[1]); /* or this end would never see the daemon's close */
    if (sent) return pair[0];
    close(pair[0]);
    return -1;
}

static int connect_to_daemon(void) {
    const char *told = getenv("SYSMEM_RUNTIME_DIR"), *user = getenv("XDG_RUNTIME_DIR");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s%s/fuchsia.sysmem2.Allocator",
                          told ? told : user ? user : "/run", told ? "" : "/sysmem");
    if (fd >= 0 && (size_t)length < sizeof address.sun_path &&
        connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    if (fd >= 0) close(fd);
    return -1;
}

/* --- buffers -------------------------------------------------------------------------------------------------- */

static void read_buffer(struct reader *r, struct call *call, struct buffers *b) {
    size_t i = b->count++;
    b->vmo[i] = b->close_weak_asap[i] = -1;
    b->start[i] = 0;
    FIELDS(r, field)
        if (field == 2)
            b->start[i] = take_as(r, 0);
        else if (field == 1 || field == 3)
            *(field == 1 ? &b->vmo[i] : &b->close_weak_asap[i]) = take_handle(r, call);
        else
            skip(r, 0);
}

static void read_info(struct reader *r, struct call *call, struct buffers *b) {
    FIELDS(r, field)
        if (field == 1)
            FIELD(r, 1) FIELD(r, 1) b->size = take_as(r, 0); /* settings.buffer_settings.size_bytes */
        else if (field == 2)
            for (uint64_t count = take_as(r, 4); count && !r->bad; count--)
                if (b->count < MAX_BUFFERS)
                    read_buffer(r, call, b);
                else
                    r->bad = true;
        else
            skip(r, 0);
}

/* --- The agent ------------------------------------------------------------------------------------------------ */

static struct channel *channels; /* those that the suite has named */
static int passed;               /* the socket over which tokens are passed */

static struct channel *find(const char *name) {
    struct channel *channel = channels;
    while (channel && strcmp(channel->name, name)) channel = channel->next;
    return must(channel);
}

static const char *add(const char *name, int fd) {
    if (fd < 0) return "closed";
    struct channel *channel = must(calloc(1, sizeof *channel));
    snprintf(channel->name, sizeof channel->name, "%s", name);
    channel->fd = fd;
    channel->next = channels;
    channels = channel;
    return "ok";
}

static const char *drop(struct channel *channel) {
    struct channel **at = &channels;
    while (*at != channel) at = &(*at)->next;
    *at = channel->next;
    while (channel->calls) free_call(channel, channel->calls);
    close(channel->fd);
    close_buffers(&channel->buffers);
    free(channel);
    return "ok";
}

/* Waits for a call, which then is over; what it came to. */
static const char *finish(struct channel *channel, struct call *call) {
    static char text[64];
    struct buffers *b = &channel->buffers;
    uint64_t id = 0;
    if (!answer_of(channel, call)) return "closed";
    struct reader r = {call->body, call->body + call->length, false};
    strcpy(text, "ok");
    if (call->ordinal == GET_BUFFER_COLLECTION_ID) {
        FIELD(&r, 1) id = take_as(&r, 0);
        snprintf(text, sizeof text, "ok %llu", (unsigned long long)id);
    } else if (call->ordinal != SYNC && take_as(&r, 5) == 1 && take_as(&r, 0) == 2) { /* 1 is success, 2 an Error */
        snprintf(text, sizeof text, "error %llu", (unsigned long long)take_as(&r, 0));
    } else if (call->ordinal == WAIT_FOR_ALL_BUFFERS_ALLOCATED) {
        close_buffers(b);
        FIELD(&r, 1) read_info(&r, call, b);
        snprintf(text, sizeof text, "ok %zu %llu", b->count, (unsigned long long)b->size);
    }
    free_call(channel, call);
    return text;
}

static const char *duplicate_sync(struct channel *token, uint64_t mask, char **names, size_t count) {
    struct message m;
    put_header(&m, DUPLICATE_SYNC);
    put_table(&m, 1, 1);
    put(&m, 4, count);
    for (size_t i = 0; i < count; i++) put_uint(&m, mask);
    struct call *call = begin(token, &m, DUPLICATE_SYNC);
    if (!answer_of(token, call)) return "closed";
    struct reader r = {call->body, call->body + call->length, false};
    if (take_as(&r, 5) == 1 && take_as(&r, 0) == 1 && take_as(&r, 4) == count)
        for (size_t i = 0; i < count; i++) add(names[i], take_handle(&r, call));
    free_call(token, call);
    return "ok";
}

static struct call *begin_command(const char *command, struct channel *channel) {
    struct message m;
    uint64_t ordinal = !strcmp(command, "sync")    ? SYNC
                       : !strcmp(command, "id")    ? GET_BUFFER_COLLECTION_ID
                       : !strcmp(command, "check") ? CHECK_ALL_BUFFERS_ALLOCATED
                                                   : WAIT_FOR_ALL_BUFFERS_ALLOCATED;
    put_header(&m, ordinal);
    return begin(channel, &m, ordinal);
}

static const char *receive_token(const char *name) {
    struct pollfd ready = {passed, POLLIN, 0};
    int fds[MAX_FDS];
    size_t fd_count;
    uint8_t byte;
    poll(&ready, 1, -1);
    if (receive_datagram(passed, &byte, 1, fds, &fd_count) == 1 && fd_count == 1) return add(name, fds[0]);
    close_all(fds, fd_count);
    return "closed";
}

/* Maps a buffer and reads or writes its beginning. */
static void access_memory(struct buffers *b, size_t i, const char *word, bool writing) {
    size_t count = writing ? strlen(word) / 2 : strtoull(word, NULL, 10), end = i < b->count ? b->start[i] + count : 0;
    uint8_t *memory = MAP_FAILED;
    bool readable = end && (off_t)end <= lseek(b->vmo[i], 0, SEEK_END);
    if (readable && (!writing || (fcntl(b->vmo[i], F_GETFL) & O_ACCMODE) == O_RDWR))
        memory = mmap(NULL, end, PROT_READ | (writing ? PROT_WRITE : 0), MAP_SHARED, b->vmo[i], 0);
    if (memory == MAP_FAILED) {
        puts("denied");
        return;
    }
    fputs(writing ? "ok" : "ok ", stdout);
    for (uint8_t *at = memory + b->start[i]; at < memory + end; at++, word += 2)
        if (writing)
            sscanf(word, "%2hhx", at);
        else
            printf("%02x", *at);
    puts("");
    munmap(memory, end);
}

#define IS(text) (!strcmp(words[0], text))
#define NUMBER(i) strtoull(words[i], NULL, 10)

static void run(char **words, size_t count) {
    bool is_named = count > 1 && !IS("connect") && !IS("receive") && !IS("start") && !IS("finish");
    struct channel *first = is_named ? find(words[1]) : NULL;
    const char *answer = NULL;
    struct message m;
    if (IS("hello")) answer = "ok 1 explained";
    else if (IS("connect")) answer = add(words[1], connect_to_daemon());
    else if (IS("receive")) answer = receive_token(words[1]);
    else if (IS("duplicate_sync")) answer = duplicate_sync(first, NUMBER(2), words + 3, count - 3);
    else if (IS("close")) answer = drop(first);
    else if (IS("reason")) printf("ok %s\n", first->reason);
    else if (IS("shared")) {
        put_header(&m, ALLOCATE_SHARED_COLLECTION);
        put_table(&m, 1, 1);
        answer = add(words[2], open_channel(first, &m));
    } else if (IS("bind")) {
        put_header(&m, BIND_SHARED_COLLECTION);
        put_table(&m, 2, 1);
        put_handle(&m, find(words[2])->fd);
        put_uint(&m, 2);
        answer = add(words[3], open_channel(first, &m));
        drop(find(words[2]));
    } else if (IS("duplicate")) {
        put_header(&m, DUPLICATE);
        put_table(&m, 2, 1);
        put_uint(&m, NUMBER(2));
        put_uint(&m, 2);
        answer = add(words[3], open_channel(first, &m));
    } else if (IS("constrain")) {
        put_header(&m, SET_CONSTRAINTS);
        put_table(&m, 1, 1); /* constraints */
        put_table(&m, 3, 1); /* usage: cpu */
        put_table(&m, 1, 2);
        put_uint(&m, NUMBER(2));
        put_field(&m, 2, NUMBER(4)); /* min_buffer_count_for_camping */
        put_uint(&m, 7);             /* buffer_memory_constraints: min_size_bytes */
        put_table(&m, 1, 1);
        put_uint(&m, NUMBER(3));
        answer = send_message(first, &m) ? "ok" : "closed";
    } else if (IS("explain")) {
        put_header(&m, SET_EXPLAIN);
        put_table(&m, 1, 1);
        put(&m, 7, 21); /* true */
        answer = send_message(first, &m) ? "ok" : "closed";
    } else if (IS("name")) {
        put_header(&m, SET_NAME);
        put_table(&m, 2, 1);
        put_uint(&m, NUMBER(2));
        put_uint(&m, 2);
        put(&m, 3, strlen(words[3]));
        put_bytes(&m, words[3], strlen(words[3]));
        answer = send_message(first, &m) ? "ok" : "closed";
    } else if (IS("start")) {
        struct call *call = begin_command(words[2], find(words[3]));
        if (call) snprintf(call->name, sizeof call->name, "%s", words[1]);
        answer = call ? "ok" : "closed";
    } else if (IS("finish")) {
        for (struct channel *channel = channels; channel && !answer; channel = channel->next)
            for (struct call *call = channel->calls, *next; call && !answer; call = next) {
                next = call->next;
                if (!strcmp(call->name, words[1])) answer = finish(channel, call);
            }
    } else if (IS("wait_closed")) {
        while (!first->ended) wait_for(first, 0);
        answer = "ok";
    } else if (IS("release")) {
        put_header(&m, RELEASE);
        answer = send_message(first, &m) ? "ok" : "closed";
        drop(first);
    } else if (IS("give")) {
        struct channel socket = {.fd = passed};
        m = (struct message){.length = 1, .fds = {first->fd}, .fd_count = 1};
        answer = send_message(&socket, &m) ? "ok" : "closed";
        drop(first);
    } else if (IS("read") || IS("write")) {
        access_memory(&first->buffers, NUMBER(2), words[3], IS("write"));
    } else answer = finish(first, begin_command(words[0], first));
    if (answer) puts(answer);
}

int main(void) {
    char *line = NULL, *words[3 + MAX_TOKENS + 1];
    size_t room = 0;
    const char *number = getenv("SYSMEM_AGENT_SOCKET");
    passed = number ? atoi(number) : -1;
    while (getline(&line, &room, stdin) > 0) {
        size_t count = 0;
        for (char *word = strtok(line, " \n"); word && count < 3 + MAX_TOKENS; word = strtok(NULL, " \n"))
            words[count++] = word;
        if (!count || IS("quit")) break;
        run(words, count);
        fflush(stdout);
    }
    while (channels) drop(channels);
    free(line);
    return 0;
}
