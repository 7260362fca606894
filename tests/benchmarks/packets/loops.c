/* The least that a program can do with a TUN device: read, write, and send to it. One core each.

   loops read NAME SECONDS            packets read, and the processor time they took
   loops write NAME COUNT             seconds that so many writes of 64 bytes took
   loops send ADDRESS SIZE SECONDS    UDP packets of so many bytes, IP header included
   loops join PID PID OFFLOAD         join a TUN in the network namespace of each process, for ever

   Each prints a line of JSON. NAME is made, brought up, and given 10.98.0.1/24. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static int make(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    char command[256];
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    snprintf(command, sizeof command,
             "ip addr add 10.98.0.1/24 dev %s && ip link set %s up txqueuelen 10000", name, name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) || system(command))
        exit(1);
    return fd;
}

static void do_read(int fd, double seconds)
{
    static char packet[70000];
    struct pollfd waiting = {fd, POLLIN, 0};
    struct rusage used;
    long count = 0;
    pin(0);
    puts("ready");
    fflush(stdout);
    poll(&waiting, 1, 10000);
    for (double end = now() + seconds; now() < end;)
        for (int n = 0; n < 256; n++)
            if (read(fd, packet, sizeof packet) > 0)
                count++;
            else
                poll(&waiting, 1, 100);
    getrusage(RUSAGE_SELF, &used);
    printf("{\"per_s\": %.0f, \"cpu_us\": %.4f}\n", count / seconds,
           (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 / count +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / count);
}

static void do_write(int fd, long count)
{
    unsigned char packet[64] = {0x45, 0, 0, 64, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 98, 0, 2,
                                10,   98, 0, 1,  0, 9, 0,    9, 0,  44};
    unsigned sum = 0;
    for (int i = 0; i < 20; i += 2)
        sum += packet[i] << 8 | packet[i + 1];
    sum = ~((sum & 65535) + (sum >> 16)) & 65535;
    packet[10] = sum >> 8;
    packet[11] = sum;
    double began = now();
    for (long n = 0; n < count; n++)
        if (write(fd, packet, sizeof packet) != sizeof packet)
            exit(1);
    printf("{\"us\": %.4f}\n", (now() - began) / count * 1e6);
}

static void do_send(const char *address, int size, double seconds)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
    static char payload[65536];
    struct iovec vector = {payload, size - 28};
    struct mmsghdr messages[64] = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    long count = 0;
    inet_pton(AF_INET, address, &to.sin_addr);
    if (connect(fd, (void *)&to, sizeof to))
        exit(1);
    for (int n = 0; n < 64; n++) {
        messages[n].msg_hdr.msg_iov = &vector;
        messages[n].msg_hdr.msg_iovlen = 1;
    }
    pin(1);
    for (double end = now() + seconds; now() < end;) {
        int sent = sendmmsg(fd, messages, 64, 0);
        count += sent > 0 ? sent : 0;
    }
    printf("{\"per_s\": %.0f}\n", count / seconds);
}

static int make_in(const char *pid, int offload)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | (offload ? IFF_VNET_HDR : 0)};
    char path[64];
    int own = open("/proc/self/ns/net", O_RDONLY), fd;
    snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
    strncpy(request.ifr_name, "join0", IFNAMSIZ - 1);
    if (setns(open(path, O_RDONLY), CLONE_NEWNET))
        exit(1);
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) ||
        (offload &&
         ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)))
        exit(1);
    setns(own, CLONE_NEWNET);
    return fd;
}

static void do_join(int one, int other)
{
    static char packet[70000];
    struct pollfd waiting[2] = {{one, POLLIN, 0}, {other, POLLIN, 0}};
    puts("ready");
    fflush(stdout);
    for (;;) {
        poll(waiting, 2, -1);
        for (int side = 0; side < 2; side++)
            for (int n = 0; waiting[side].revents && n < 64; n++) {
                ssize_t size = read(waiting[side].fd, packet, sizeof packet);
                if (size <= 0 || write(waiting[1 - side].fd, packet, size) < 0)
                    break;
            }
    }
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "read"))
        do_read(make(words[2]), atof(words[3]));
    else if (count == 4 && !strcmp(words[1], "write"))
        do_write(make(words[2]), atol(words[3]));
    else if (count == 5 && !strcmp(words[1], "send"))
        do_send(words[2], atoi(words[3]), atof(words[4]));
    else if (count == 5 && !strcmp(words[1], "join"))
        do_join(make_in(words[2], atoi(words[4])), make_in(words[3], atoi(words[4])));
    else
        return 2;
    return 0;
}
